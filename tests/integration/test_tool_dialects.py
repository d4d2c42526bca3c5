"""Tools with ONNX Runtime GenAI itself: its template engine, its grammars, small models."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from device_runtime.tools.call_parser import CallArguments, CallStarted, Text, ToolCallParser
from device_runtime.tools.definition import Tool, Tools
from device_runtime.tools.dialect import Dialect
from device_runtime.tools.grammar import grammar
from tests.support import guided, tool_templates
from tests.support.families.templates import GEMMA, LLAMA2

TEMPLATES = {
    "hermes": tool_templates.HERMES,
    "llama": tool_templates.LLAMA,
    "mistral": tool_templates.MISTRAL,
    "mistral-args": tool_templates.MISTRAL_ARGS,
    "phi4": tool_templates.PHI4,
    "plain": tool_templates.CHATML,
}
WEATHER = Tool(
    name="get_weather",
    description='It\'s the weather <now> & "here"',
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "unit": {"enum": ["C", "°F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="clock-2", description="The time")
TOOLS = (WEATHER, CLOCK)

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "It's 'quoted'."},
    {"role": "user", "content": "Weather in Paris, and the time?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_0123456789",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Pâris"}'},
            },
            {
                "id": "call_9876543210",
                "type": "function",
                "function": {"name": "clock-2", "arguments": "{}"},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "call_0123456789", "content": '{"sun": "2 h"}'},
    {"role": "tool", "tool_call_id": "call_9876543210", "content": "noon"},
    {"role": "user", "content": "And tomorrow?"},
]


class Model:
    """A model that samples as the engine does: noise on the scores of a greedy generator."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og

        self.og = og
        self.model = og.Model(str(folder))
        self.tokenizer = og.Tokenizer(self.model)
        self.end_tokens = [int(token) for token in self.tokenizer.eos_token_ids]

    def render(
        self, dialect: Dialect, messages: list[dict[str, Any]], tools: tuple[Tool, ...]
    ) -> str:
        options = {}
        if dialect.native and tools:
            options["tools"] = json.dumps([tool.definition for tool in tools])
        return str(
            self.tokenizer.apply_chat_template(
                json.dumps(dialect.messages(messages, tools)),
                template_str=dialect.template,
                add_generation_prompt=True,
                **options,
            )
        )

    def generator(self, rules: str, prompt: str, tokens: int) -> Any:
        return guided.generator(self.model, self.tokenizer, rules, prompt, tokens)

    def pieces(
        self, dialect: Dialect, rules: str, prompt: str, *, seed: int | None, tokens: int = 400
    ) -> tuple[list[str], bool]:
        """The answer's pieces, and whether it came to its end."""
        generator = self.generator(rules, prompt, tokens)
        shown = dialect.shown
        stream = self.tokenizer.create_stream()
        random = None if seed is None else np.random.default_rng(seed)
        pieces = []
        token = -1
        while not generator.is_done():
            token = guided.next_token(generator, random)
            if token not in self.end_tokens:
                pieces.append(shown[token] if token in shown else stream.decode(token))
        return pieces, token in self.end_tokens

    def follows(self, rules: str, wanted: list[int]) -> list[int]:
        """The tokens that come when those are wanted, as far as they are allowed."""
        generator = self.generator(rules, "Hi", len(wanted) + 1)
        given = []
        for token in wanted:
            scores = np.zeros_like(np.asarray(generator.get_logits(), np.float32))
            scores[..., token] = 100
            generator.set_logits(scores)
            generator.generate_next_token()
            given.append(int(generator.get_next_tokens()[0]))
            if generator.is_done() or given[-1] != token:
                break
        return given


def calls_of(
    dialect: Dialect, pieces: list[str], tools: tuple[Tool, ...] = TOOLS
) -> tuple[str, list[tuple[str, str]]]:
    names = [tool.name for tool in tools]
    parser = ToolCallParser(dialect, names, guided=True)
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    text = "".join(event.text for event in events if isinstance(event, Text))
    found = [event.name for event in events if isinstance(event, CallStarted)]
    arguments = [""] * len(found)
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.index] += event.delta
    return text, list(zip(found, arguments, strict=True))


def check(calls: list[tuple[str, str]]) -> None:
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[name])


@pytest.fixture(scope="module")
def tiny(tiny_onnx: Path) -> Model:
    return Model(tiny_onnx)


@pytest.fixture(scope="module")
def marked(
    tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, dict[str, int]]:
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
    return Model(folder), special


families = pytest.mark.parametrize("family", TEMPLATES)


@families
def test_prompt_of_a_later_turn_has_tools_calls_and_results(tiny: Model, family: str) -> None:
    dialect = Dialect.of(TEMPLATES[family])
    prompt = tiny.render(dialect, CONVERSATION, TOOLS)
    described = WEATHER.definition["function"]
    shown = "".join(prompt.split())
    for part in (described["description"], described["parameters"]):
        assert "".join(json.dumps(part, ensure_ascii=False).split()) in shown
    order = [
        "It's 'quoted'.",
        "Weather in Paris, and the time?",
        "get_weather",
        '{"city": "Pâris"}',
        "2 h",
        "noon",
        "And tomorrow?",
    ]
    at = 0
    for part in order:
        assert part in prompt[at:], (part, prompt)
        at = prompt.index(part, at)


def test_families_write_calls_as_models_do(tiny: Model) -> None:
    prompts = {
        family: tiny.render(Dialect.of(template), CONVERSATION, TOOLS)
        for family, template in TEMPLATES.items()
    }
    call = '{"name": "get_weather", "arguments": {"city": "Pâris"}'
    assert f"<tool_call>\n{call}}}\n</tool_call>" in prompts["hermes"]
    assert f"<tool_call>\n{call}}}\n</tool_call>" in prompts["plain"]
    assert f'[TOOL_CALLS] [{call}, "id": ' in prompts["mistral"]
    assert '[TOOL_CALLS]get_weather[ARGS]{"city": "Pâris"}' in prompts["mistral-args"]
    assert f"<|tool_call|>[{call}}}, " in prompts["phi4"]
    assert "<|tool_response|>noon<|end|>" in prompts["phi4"]
    assert '{"name": "get_weather", "parameters": {"city": "Pâris"}}<|eot_id|>' in prompts["llama"]


def test_llama_gets_a_result_after_each_of_several_calls(tiny: Model) -> None:
    prompt = tiny.render(Dialect.of(TEMPLATES["llama"]), CONVERSATION, TOOLS)
    parts = ['"get_weather", "parameters"', "2 h", '"clock-2", "parameters"', "noon"]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("template", [GEMMA, LLAMA2], ids=["gemma", "llama2"])
def test_templates_that_want_alternating_turns_take_tools_and_results(
    tiny: Model, template: str
) -> None:
    conversation = CONVERSATION if template is LLAMA2 else CONVERSATION[1:]
    prompt = tiny.render(Dialect.of(template), conversation, TOOLS)
    places = [
        prompt.index(part)
        for part in ("<tools>", "Weather in", '<tool_call>\n{"name": "clock-2"', "noon", "And tom")
    ]
    assert places == sorted(places)


@families
def test_earlier_calls_are_shown_where_no_tools_are_given(tiny: Model, family: str) -> None:
    prompt = tiny.render(Dialect.of(TEMPLATES[family]), CONVERSATION, ())
    assert "It's the weather" not in prompt
    assert '{"city": "Pâris"}' in prompt


@families
@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("named", [False, True], ids=["required", "named"])
def test_forced_calls_are_calls(
    tiny: Model, marked: tuple[Model, dict[str, int]], family: str, special: bool, named: bool
) -> None:
    model = marked[0] if special else tiny
    dialect = Dialect.of(TEMPLATES[family], special=marked[1] if special else {})
    tools = Tools(tools=TOOLS[:1] if named else TOOLS, required=True, parallel=not named)
    rules = grammar(dialect, tools)
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


def allowed(model: Model, rules: str, text: str, end: int | None = None) -> bool:
    """Whether a grammar lets the model answer with a text, and end then."""
    wanted = [int(token) for token in model.tokenizer.encode(text)]
    wanted.append(model.end_tokens[0] if end is None else end)
    return model.follows(rules, wanted) == wanted


CALL = {"function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "C"}'}}
NOON = {"function": {"name": "clock-2", "arguments": "{}"}}


def test_grammar_for_auto_lets_text_and_right_calls_through_and_no_others(tiny: Model) -> None:
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=TOOLS))
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


def test_grammar_for_auto_without_parallel_calls_lets_one_through(tiny: Model) -> None:
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=TOOLS, parallel=False))
    assert allowed(tiny, rules, dialect.syntax.write([CALL]))
    assert not allowed(tiny, rules, dialect.syntax.write([CALL, NOON]))


def test_grammar_for_auto_of_calls_that_are_the_whole_answer(tiny: Model) -> None:
    dialect = Dialect.of(TEMPLATES["llama"])
    rules = grammar(dialect, Tools(tools=TOOLS))
    right = dialect.syntax.write([CALL])
    for answer in ("", "Hello", '{"city": "Paris"}', '{"name": "Ann"}', right):
        assert allowed(tiny, rules, answer), answer
    for wrong in (right.replace('"city"', '"town"'), right + " is it"):
        assert not allowed(tiny, rules, wrong), wrong


@pytest.mark.parametrize("family", ["mistral", "mistral-args", "phi4"])
def test_grammar_for_auto_with_marks_that_are_special_tokens(
    marked: tuple[Model, dict[str, int]], family: str
) -> None:
    model, special = marked
    dialect = Dialect.of(TEMPLATES[family], special=special, end_tokens=model.end_tokens)
    rules = grammar(dialect, Tools(tools=TOOLS))
    right = dialect.syntax.write([CALL, NOON])
    for answer in ("Hello [TOOL_", "", right, f"Well, {right}"):
        for end in model.end_tokens:
            assert allowed(model, rules, answer, end), (answer, end)
    for wrong in (dialect.syntax.marker, right.replace('"city"', '"town"'), f"{right} is it"):
        assert not allowed(model, rules, wrong), wrong


def test_answers_under_the_grammar_for_auto_end_with_any_of_the_end_tokens(
    marked: tuple[Model, dict[str, int]],
) -> None:
    model, special = marked
    for family in ("hermes", "llama"):
        dialect = Dialect.of(TEMPLATES[family], special=special, end_tokens=model.end_tokens)
        rules = grammar(dialect, Tools(tools=TOOLS))
        for answer in ("Hello", dialect.syntax.write([CALL])):
            for end in model.end_tokens:
                assert allowed(model, rules, answer, end), (family, answer, end)


def test_llama_may_put_its_tag_before_a_call(marked: tuple[Model, dict[str, int]]) -> None:
    model, special = marked
    dialect = Dialect.of(TEMPLATES["llama"], special=special, end_tokens=model.end_tokens)
    rules = grammar(dialect, Tools(tools=TOOLS))
    assert allowed(model, rules, "<|python_tag|>" + dialect.syntax.write([CALL]))
    assert not allowed(model, rules, "<|python_tag|>print(1)")


@families
def test_text_or_right_calls_come_of_sampling_under_the_grammar_for_auto(
    tiny: Model, family: str
) -> None:
    dialect = Dialect.of(TEMPLATES[family])
    rules = grammar(dialect, Tools(tools=TOOLS))
    for seed in range(6):
        pieces, _ = tiny.pieces(dialect, rules, "Hi", seed=seed, tokens=200)
        text, calls = calls_of(dialect, pieces)
        check(calls)
        assert calls or text == "".join(pieces)


def test_tool_whose_schema_cannot_be_kept_to_gets_any_object(tiny: Model) -> None:
    tool = Tool(name="odd", parameters={"type": "object", "not": {"required": ["a"]}})
    dialect = Dialect.of(TEMPLATES["hermes"])
    rules = grammar(dialect, Tools(tools=(tool,), required=True))
    for arguments in ("{}", '{"b": [1, null]}'):
        call = {"function": {"name": "odd", "arguments": arguments}}
        assert allowed(tiny, rules, dialect.syntax.write([call]))


def test_many_tools_make_a_grammar_that_the_engine_takes(tiny: Model) -> None:
    tools = tuple(
        Tool(name=f"tool-{number}", parameters=WEATHER.parameters) for number in range(128)
    )
    dialect = Dialect.of(TEMPLATES["hermes"])
    for required in (False, True):
        rules = grammar(dialect, Tools(tools=tools, required=required))
        call = {"function": {"name": "tool-99", "arguments": CALL["function"]["arguments"]}}
        assert allowed(tiny, rules, dialect.syntax.write([call, call]))


@pytest.fixture(scope="module")
def real(default_model: Path) -> Model:
    return Model(default_model)


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True], ids=["required", "named"])
def test_default_model_makes_right_calls_when_it_must(
    real: Model, default_model: Path, named: bool
) -> None:
    dialect = Dialect.of((default_model / "chat_template.jinja").read_text())
    tools = TOOLS[:1] if named else TOOLS
    rules = grammar(dialect, Tools(tools=tools, required=True, parallel=False))
    question = [{"role": "user", "content": "What is the weather in Paris, in C?"}]
    prompt = real.render(dialect, question, tools)
    for seed in (None, *range(10)):
        pieces, ended = real.pieces(dialect, rules, prompt, seed=seed)
        assert ended
        text, calls = calls_of(dialect, pieces)
        assert (text, len(calls)) == ("", 1)
        check(calls)
        assert calls[0][0] == "get_weather" or not named


@pytest.mark.slow
def test_default_model_answers_with_the_result_it_is_given(
    real: Model, default_model: Path
) -> None:
    dialect = Dialect.of((default_model / "chat_template.jinja").read_text())
    question = [{"role": "user", "content": "What is the weather in Paris, in C?"}]
    made = {"id": "call_1", "type": "function", **CALL}
    later: list[dict[str, Any]] = [
        *question,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 31}'},
    ]
    prompt = real.render(dialect, later, TOOLS)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", ' in prompt
    assert '<tool_response>\n{"temperature": 31}\n</tool_response>' in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    rules = grammar(dialect, Tools(tools=TOOLS))
    pieces, _ = real.pieces(dialect, rules, prompt, seed=None, tokens=60)
    text, calls = calls_of(dialect, pieces)
    check(calls)
    assert text or calls
