"""Tool calls under a grammar: ONNX Runtime GenAI lets right ones through, and no others."""

import json
import shutil
from pathlib import Path

import pytest

from device_runtime.json_schema import grammar as schemas
from device_runtime.tools.definition import Tool, Tools
from device_runtime.tools.dialect import Dialect
from device_runtime.tools.grammar import ANSWER, grammar
from tests.support.tool_model import (
    CALL,
    NOON,
    TEMPLATES,
    TOOLS,
    WEATHER,
    ToolModel,
    allowed,
    calls_of,
    check,
)


@pytest.fixture(scope="module")
def tiny(tiny_onnx: Path) -> ToolModel:
    return ToolModel(tiny_onnx)


@pytest.fixture(scope="module")
def marked(
    tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ToolModel, dict[str, int]]:
    """A model whose marks are special tokens, as Mistral's are, and with two end tokens."""
    folder = tmp_path_factory.mktemp("marked") / "model"
    shutil.copytree(tiny_onnx, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    first = max(tokenizer["model"]["vocab"].values()) + 1
    marks = [
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|tool_call|>",
        "<|/tool_call|>",
        "<|python_tag|>",
        "<|eom|>",
    ]
    special = {mark: first + number for number, mark in enumerate(marks)}
    for mark, number in special.items():
        entry = dict(tokenizer["added_tokens"][0], content=mark, id=number)
        tokenizer["added_tokens"].append(entry)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [2, special["<|eom|>"]]
    (folder / "genai_config.json").write_text(json.dumps(config))
    return ToolModel(folder), special


families = pytest.mark.parametrize("family", TEMPLATES)


@families
@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("named", [False, True], ids=["required", "named"])
def test_forced_calls_are_calls(
    tiny: ToolModel,
    marked: tuple[ToolModel, dict[str, int]],
    family: str,
    special: bool,
    named: bool,
) -> None:
    model = marked[0] if special else tiny
    dialect = Dialect.of(TEMPLATES[family], special=marked[1] if special else {})
    tools = Tools(tools=TOOLS[:1] if named else TOOLS, required=True, parallel=not named)
    rules = grammar(dialect, tools).text
    counts = set()
    for seed in range(8):
        pieces, ended = model.pieces(dialect, rules, "Hi", seed=seed, tokens=1500)
        assert ended
        text, calls = calls_of(dialect, pieces)
        assert text == ""
        check(calls)
        counts.add(len(calls))
        assert all(name == "get_weather" for name, _ in calls) or not named
    assert counts == {1} if named or family == "llama" else max(counts) <= 8 and len(counts) > 1


def test_grammar_for_auto_lets_text_and_right_calls_through_and_no_others(tiny: ToolModel) -> None:
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    right = dialect.syntax.write([CALL])
    for answer in ("", "Hello.\n", "a <tool_ca b <tool_call", right, f"Well,\n{right}"):
        assert allowed(tiny, rules, answer), answer
    assert allowed(tiny, rules, dialect.syntax.write([CALL, NOON, CALL]))
    for wrong in (
        "<tool_call>",
        right.replace("get_weather", "get_whether"),
        right.replace("Paris", "Paris and then some"),
        right.replace('"city"', '"town"'),
        right.replace(": {", ":  {"),
        right.replace('{"city"', '{ "city"'),
        right.replace("\n</tool_call>", ""),
        dialect.syntax.write([CALL] * 9),
    ):
        assert not allowed(tiny, rules, wrong), wrong


def test_grammar_for_auto_without_parallel_calls_lets_one_through(tiny: ToolModel) -> None:
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=TOOLS, parallel=False)).text
    assert allowed(tiny, rules, dialect.syntax.write([CALL]))
    assert not allowed(tiny, rules, dialect.syntax.write([CALL, NOON]))


def test_grammar_for_auto_of_calls_that_are_the_whole_answer(tiny: ToolModel) -> None:
    dialect = Dialect.of(TEMPLATES["llama"])
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    right = dialect.syntax.write([CALL])
    for answer in ("", "Hello", '{"city": "Paris"}', '{"name": "Ann"}', right):
        assert allowed(tiny, rules, answer), answer
    for wrong in (right.replace('"city"', '"town"'), right + " is it"):
        assert not allowed(tiny, rules, wrong), wrong


@pytest.mark.parametrize("family", ["mistral", "mistral-args", "phi4"])
def test_grammar_for_auto_with_marks_that_are_special_tokens(
    marked: tuple[ToolModel, dict[str, int]], family: str
) -> None:
    model, special = marked
    dialect = Dialect.of(TEMPLATES[family], special=special)
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    right = dialect.syntax.write([CALL, NOON])
    for answer in ("Hello [TOOL_", ""):
        for end in model.end_tokens:
            assert allowed(model, rules, answer, end), (answer, end)
    for answer in (right, f"Well, {right}"):
        assert allowed(model, rules, answer), answer
    for wrong in (dialect.syntax.marker, right.replace('"city"', '"town"'), f"{right} is it"):
        assert not allowed(model, rules, wrong), wrong


def test_answers_under_the_grammar_for_auto_end_with_any_of_the_end_tokens(
    marked: tuple[ToolModel, dict[str, int]],
) -> None:
    model, special = marked
    for family in ("hermes", "llama"):
        dialect = Dialect.of(TEMPLATES[family], special=special)
        rules = grammar(dialect, Tools(tools=TOOLS)).text
        for end in model.end_tokens:
            assert allowed(model, rules, "Hello", end), (family, end)
        # After the last call nothing else may come, and the model is not asked how it would end.
        assert allowed(model, rules, dialect.syntax.write([CALL])), family


def test_llama_may_put_its_tag_before_a_call(marked: tuple[ToolModel, dict[str, int]]) -> None:
    model, special = marked
    dialect = Dialect.of(TEMPLATES["llama"], special=special)
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    assert allowed(model, rules, "<|python_tag|>" + dialect.syntax.write([CALL]))
    assert not allowed(model, rules, "<|python_tag|>print(1)")


@families
def test_text_or_right_calls_come_of_sampling_under_the_grammar_for_auto(
    tiny: ToolModel, family: str
) -> None:
    dialect = Dialect.of(TEMPLATES[family])
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    for seed in range(6):
        pieces, _ = tiny.pieces(dialect, rules, "Hi", seed=seed, tokens=200)
        text, calls = calls_of(dialect, pieces)
        check(calls)
        assert calls or text == "".join(pieces)


def test_tool_without_a_schema_but_for_what_is_left_out_gets_any_object(tiny: ToolModel) -> None:
    tool = Tool(name="odd", parameters={"type": "object", "not": {"required": ["a"]}})
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=(tool,), required=True)).text
    for arguments in ("{}", '{"b": [1, null]}'):
        call = {"function": {"name": "odd", "arguments": arguments}}
        assert allowed(tiny, rules, dialect.syntax.write([call]))


def test_tool_loses_only_the_keyword_that_is_not_supported(tiny: ToolModel) -> None:
    tags = {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "</tool_call>"]}}
    tool = Tool(name="f", parameters={"type": "object", "properties": {"tags": tags}})
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules, ignored = grammar(dialect, Tools(tools=(tool,), required=True))
    assert ignored == ("f.properties.tags.uniqueItems",)
    for arguments, right in (
        ('{"tags": ["a", "a", "</tool_call>"]}', True),
        ('{"tags": ["b"]}', False),
        ('{"b": 1}', False),
    ):
        call = {"function": {"name": "f", "arguments": arguments}}
        assert allowed(tiny, rules, dialect.syntax.write([call])) == right, arguments


def test_many_tools_make_a_grammar_that_the_engine_takes(tiny: ToolModel) -> None:
    tools = tuple(
        Tool(name=f"tool-{number}", parameters=WEATHER.parameters) for number in range(128)
    )
    dialect = Dialect.of(TEMPLATES["hermes"])
    for required in (False, True):
        rules = grammar(dialect, Tools(tools=tools, required=required)).text
        call = {"function": {"name": "tool-99", "arguments": CALL["function"]["arguments"]}}
        assert allowed(tiny, rules, dialect.syntax.write([call, call]))


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
def test_answer_of_a_form_stands_in_place_of_text(
    tiny: ToolModel, marked: tuple[ToolModel, dict[str, int]], family: str, special: bool
) -> None:
    model = marked[0] if special else tiny
    dialect = Dialect.of(TEMPLATES[family], special=marked[1] if special else {})
    properties = {"name": {"type": "string", "maxLength": 20}, "a": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    rules = grammar(dialect, Tools(tools=TOOLS), schemas.rules(schema, ANSWER)).text
    right = dialect.syntax.write([CALL])
    named = ('{"name": "get_weather", "a": true}', '{"name": "get_weather"}', '{"name": "x"}')
    for answer in ('{"a": true}', right, *named):
        assert allowed(model, rules, answer), answer
    wrongs = ("Hello", '{"a": 1}', f'{{"a": true}}{right}', f"Well,\n{right}")
    for wrong in (*wrongs, right.replace('"city"', '"town"')):
        assert not allowed(model, rules, wrong), wrong
