"""Calls of tools found in answers: by hand for each family, and cut at every place."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.tools.call_parser import CallArguments, CallStarted, Text, ToolCallParser
from device_runtime.tools.dialect import Dialect
from tests.support import tool_templates
from tests.support.families.templates import CHATML, GEMMA, LLAMA2

HERMES = Dialect.of(tool_templates.HERMES)
LLAMA = Dialect.of(tool_templates.LLAMA)
MISTRAL = Dialect.of(tool_templates.MISTRAL)
MISTRAL_ARGS = Dialect.of(tool_templates.MISTRAL_ARGS)
PHI4 = Dialect.of(tool_templates.PHI4)
PLAIN = Dialect.of(tool_templates.CHATML)

NAMES = ("get_weather", "add")
PARIS = '{"city": "Paris"}'
SUM = '{"a": 1, "b": {"c": ["}", "\\"]"]}}'


def read(
    dialect: Dialect, pieces: Sequence[str], *, guided: bool = False, formed: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls of an answer; checks the order of the events on the way."""
    numbers = itertools.count()
    parser = ToolCallParser(
        dialect,
        NAMES,
        guided=guided,
        formed=formed,
        new_id=lambda: f"call_{next(numbers)}",
    )
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    text = ""
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, CallStarted):
            assert event.index == len(calls)
            assert event.id == f"call_{event.index}"
            calls.append((event.name, ""))
        else:
            assert event.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + event.delta)
    return text, calls


ANSWERS: list[tuple[str, Dialect, str, str, list[tuple[str, str]]]] = [
    (
        "Hermes",
        HERMES,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    (
        "Hermes after text, twice",
        HERMES,
        f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "add", "arguments": {SUM}}}\n</tool_call>\n',
        "Let me see.",
        [("get_weather", PARIS), ("add", SUM)],
    ),
    (
        "text after a call",
        HERMES,
        f'<tool_call>{{"name": "add", "arguments": {SUM}}}</tool_call>\n\nThat is it. ',
        "That is it.",
        [("add", SUM)],
    ),
    (
        "SmolLM2 writes a list",
        PLAIN,
        f'<tool_call>[{{"name": "get_weather", "arguments": {PARIS}}}, '
        f'{{"name": "add", "arguments": {SUM}}}]</tool_call>',
        "",
        [("get_weather", PARIS), ("add", SUM)],
    ),
    (
        "arguments first, in a string",
        HERMES,
        f'<tool_call>{{"arguments": {json.dumps(PARIS)}, "name": "get_weather"}}</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    ("no arguments", HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [("add", "{}")]),
    (
        "no closing mark",
        HERMES,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}',
        "",
        [("get_weather", PARIS)],
    ),
    (
        "Llama",
        LLAMA,
        f'{{"name": "get_weather", "parameters": {PARIS}}}',
        "",
        [("get_weather", PARIS)],
    ),
    (
        "Llama with its tag",
        LLAMA,
        f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {PARIS}}}',
        "",
        [("get_weather", PARIS)],
    ),
    (
        "Llama, several",
        LLAMA,
        f'\n{{"name": "get_weather", "parameters": {PARIS}}}; '
        f'{{"name": "add", "parameters": {SUM}}}',
        "",
        [("get_weather", PARIS), ("add", SUM)],
    ),
    (
        "Mistral",
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}, "id": "abcdefghi"}}, '
        f'{{"name": "add", "arguments": {SUM}}}]',
        "",
        [("get_weather", PARIS), ("add", SUM)],
    ),
    (
        "later Mistral",
        MISTRAL_ARGS,
        f"Well. [TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{SUM}",
        "Well.",
        [("get_weather", PARIS), ("add", SUM)],
    ),
    (
        "Phi-4-mini",
        PHI4,
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {PARIS}}}]<|/tool_call|>',
        "",
        [("get_weather", PARIS)],
    ),
    (
        "Phi-4-mini, no list",
        PHI4,
        f'<|tool_call|>{{"name": "add", "arguments": {SUM}}}<|/tool_call|>',
        "",
        [("add", SUM)],
    ),
]

NO_CALLS: list[tuple[str, Dialect, str]] = [
    ("text", HERMES, " Hello,\n world \n"),
    ("nothing", HERMES, ""),
    ("white space", HERMES, " \n "),
    (
        "a tool that there is not",
        HERMES,
        '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
    ),
    ("one of two is not there", HERMES, '<tool_call>[{"name": "add"}, {"name": "rm"}]</tool_call>'),
    ("invalid JSON", HERMES, 'a\n<tool_call>\n{"name": "add", "arguments": {x}}\n</tool_call> b'),
    ("JSON of something else", HERMES, '<tool_call>{"city": "Paris"}</tool_call>'),
    ("an empty list", HERMES, "<tool_call>[]</tool_call>"),
    (
        "arguments that are a list",
        HERMES,
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    ),
    ("arguments that are text", HERMES, '<tool_call>{"name": "add", "arguments": "1"}</tool_call>'),
    ("cut in a string", HERMES, '<tool_call>{"name": "add", "argu'),
    ("cut in the mark", HERMES, "Hello <tool_ca"),
    ("a mark alone", HERMES, "The mark <tool_call> begins a call, </tool_call> ends it."),
    ("a mark in a mark", HERMES, "<tool_call><tool_<tool_call>"),
    ("brackets that do not match", HERMES, '<tool_call>{"name": "add", "arguments": {]}'),
    ("half a surrogate", HERMES, '<tool_call>{"name": "add", "arguments": {"a": "\ud800"}}'),
    ("JSON that is an answer", LLAMA, '{"city": "Paris", "country": "France"} '),
    ("a call that is not the whole answer", LLAMA, f'See: {{"name": "add", "parameters": {SUM}}}'),
    ("Llama, cut", LLAMA, '{"name": "add", "parameters": {"a": 1'),
    ("Mistral's mark alone", MISTRAL, "[TOOL_CALLS] none"),
    ("Mistral's name alone", MISTRAL_ARGS, "[TOOL_CALLS]add" + "d" * 300),
    ("Mistral's unknown name", MISTRAL_ARGS, "[TOOL_CALLS]rm[ARGS]{}"),
]

calls_by_hand = pytest.mark.parametrize(
    ("dialect", "answer", "text", "calls"),
    [row[1:] for row in ANSWERS],
    ids=[r[0] for r in ANSWERS],
)
no_calls = pytest.mark.parametrize(
    ("dialect", "answer"), [row[1:] for row in NO_CALLS], ids=[row[0] for row in NO_CALLS]
)


@calls_by_hand
def test_calls_of_the_families(
    dialect: Dialect, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read(dialect, [answer]) == (text, calls)


@calls_by_hand
def test_calls_cut_anywhere(
    dialect: Dialect, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read(dialect, list(answer)) == (text, calls)
    for at in range(len(answer)):
        assert read(dialect, [answer[:at], answer[at:]]) == (text, calls)


@no_calls
def test_what_is_no_call_is_text_to_the_letter(dialect: Dialect, answer: str) -> None:
    assert read(dialect, [answer]) == (answer, [])
    assert read(dialect, list(answer)) == (answer, [])


def test_a_call_after_a_broken_one_is_found() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    broken = '<tool_call>{"name": <tool_call>'
    assert read(HERMES, [broken + " " + call]) == (broken, [("add", "{}")])


def test_a_mark_within_arguments_is_theirs() -> None:
    arguments = '{"text": "</tool_call><tool_call>{}"}'
    call = f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'
    for guided in (False, True):
        assert read(HERMES, list(call), guided=guided) == ("", [("add", arguments)])


@pytest.mark.parametrize(
    "dialect", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PHI4, PLAIN], ids=lambda d: d.syntax.begin
)
def test_guided_arguments_come_as_they_are_written(dialect: Dialect) -> None:
    calls = [("get_weather", PARIS), ("add", SUM)][: 1 if dialect.syntax.single else 2]
    wire = [{"function": {"name": name, "arguments": text}} for name, text in calls]
    written = dialect.syntax.write(wire)
    assert read(dialect, [written], guided=True) == ("", calls)
    assert read(dialect, list(written), guided=True) == ("", calls)
    parser = ToolCallParser(dialect, NAMES, guided=True)
    deltas = []
    for letter in written:
        events = parser.push(letter)
        deltas += [event.delta for event in events if isinstance(event, CallArguments)]
    assert deltas == list("".join(text for _, text in calls))


def test_guided_answer_cut_within_arguments_keeps_what_there_is() -> None:
    cut = '<tool_call>\n{"name": "add", "arguments": {"a": 1'
    assert read(HERMES, list(cut), guided=True) == ("", [("add", '{"a": 1')])


@pytest.mark.parametrize("rest", ["}", "}\n", "}\n</tool", "}\n</tool_call>"])
def test_guided_answer_cut_after_arguments_has_no_text(rest: str) -> None:
    cut = '<tool_call>\n{"name": "add", "arguments": {}'
    assert read(HERMES, list(cut + rest), guided=True) == ("", [("add", "{}")])


@pytest.mark.parametrize("dialect", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PHI4])
def test_a_call_within_an_answer_of_a_form_is_its_text(dialect: Dialect) -> None:
    syntax = dialect.syntax
    call = syntax.begin + syntax.head("add") + "{}" + syntax.tail + syntax.end
    tagged = f'<|python_tag|>{{"name": "add", "{syntax.arguments}": {{}}}}'
    for answer in (
        json.dumps({"note": f"as in {call} or {tagged}"}),
        f'{{"note": "{call}"}}',
        f'"{tagged}"',
        "[]",
    ):
        for pieces in ([answer], [*answer]):
            assert read(dialect, pieces, guided=True, formed=True) == (answer, [])
    for pieces in ([call], [*call]):
        assert read(dialect, pieces, guided=True, formed=True) == ("", [("add", "{}")])


def test_text_comes_at_once_but_for_what_may_be_a_mark() -> None:
    parser = ToolCallParser(HERMES, NAMES, guided=False)
    assert parser.push("Hello") == [Text("Hello")]
    assert parser.push(" <tool") == []
    assert parser.push("box>") == [Text(" <toolbox>")]


def test_ids_are_random() -> None:
    parser = ToolCallParser(HERMES, NAMES, guided=False)
    events = parser.push('<tool_call>[{"name": "add"}, {"name": "add"}]</tool_call>')
    ids = [event.id for event in events if isinstance(event, CallStarted)]
    assert len(set(ids)) == 2
    assert all(len(each) == 29 and each.startswith("call_") for each in ids)


PIECES = [
    "<tool_call>", "</tool_call>", "\n", " ", '{"name": "add", "arguments": ', "{", "}", "[", "]",
    '{"a": 1}', '"', "\\", ",", ";", "x", "[TOOL_CALLS]", "[ARGS]", "add", "<|tool_call|>",
    "<|/tool_call|>", "<|python_tag|>", '{"name": "add", "parameters": ', "<tool", "é", "rm",
    '{"name": "add", "arguments": {"a": "x"}}', "add[ARGS]",
]  # fmt: skip


@given(
    dialect=st.sampled_from([HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, PHI4]),
    parts=st.lists(st.sampled_from(PIECES), max_size=14),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    guided=st.booleans(),
)
def test_any_answer_cut_anywhere_gives_the_same(
    dialect: Dialect, parts: list[str], cuts: list[int], guided: bool
) -> None:
    answer = "".join(parts)
    places = sorted({0, *(cut % (len(answer) + 1) for cut in cuts), len(answer)})
    pieces = [answer[start:end] for start, end in itertools.pairwise(places)]
    whole = read(dialect, [answer], guided=guided)
    assert read(dialect, pieces, guided=guided) == whole
    assert read(dialect, list(answer), guided=guided) == whole
    text, calls = whole
    if not calls:
        assert text == answer
    if not guided:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>" * 20_000,
        "<tool_call>{" * 20_000,
        '<tool_call>{"a' * 20_000,
        '<tool_call>["' + '","<tool_call>' * 20_000,
        "<tool_call>" + "[" * 200_000,
        "<tool_call>" + "[" * 100_000 + "]" * 100_000,
        '<tool_call>{"name": "' + "a" * 200_000,
        " " * 200_000,
        "<tool_call" * 20_000,
    ],
    ids=lambda answer: answer[:24],
)
def test_huge_and_hostile_answers_are_text(answer: str) -> None:
    pieces = [answer[at : at + 20] for at in range(0, len(answer), 20)]
    assert read(HERMES, pieces) == (answer, [])


def test_dialects_are_told_from_templates() -> None:
    found: dict[str, Any] = {
        name: (dialect.syntax.begin, dialect.native)
        for name, dialect in {
            "hermes": HERMES,
            "llama": LLAMA,
            "mistral": MISTRAL,
            "args": MISTRAL_ARGS,
            "phi4": PHI4,
            "plain": PLAIN,
            "chatml": Dialect.of(CHATML),
            "llama2": Dialect.of(LLAMA2),
        }.items()
    }
    assert found == {
        "hermes": ("<tool_call>\n", True),
        "llama": ("", True),
        "mistral": ("[TOOL_CALLS] [", True),
        "args": ("[TOOL_CALLS]", True),
        "phi4": ("<|tool_call|>[", False),
        "plain": ("<tool_call>\n", False),
        "chatml": ("<tool_call>\n", False),
        "llama2": ("<tool_call>\n", False),
    }


@pytest.mark.parametrize(
    "template",
    [
        "{# tools #}{{ messages[0].content }}",
        "tools {{ messages }} <tool_call>",
        "{{ 'tools' in messages[0] }} <tool_call>",
        "{{ messages[0].tools }}{{ messages[0]['tools'] }}<tool_call>",
        "{% for tool in my_tools %}{{ tool }}{% endfor %}<tool_call>",
    ],
)
def test_template_that_only_mentions_tools_takes_none(template: str) -> None:
    assert not Dialect.of(template).native


def test_template_with_tools_in_a_form_unknown_here_is_given_the_hermes_form() -> None:
    template = "{% for t in tools %}{{ t }}{% endfor %}<tool_call>\n<function=x>"
    assert Dialect.of(template) == Dialect.of(template)
    assert (Dialect.of(template).native, Dialect.of(template).syntax) == (False, HERMES.syntax)


def test_template_without_a_system_turn() -> None:
    assert not Dialect.of(GEMMA).system_turn
    assert PLAIN.system_turn


def test_special_tokens_that_an_answer_must_show() -> None:
    special = {"[TOOL_CALLS]": 5, "<s>": 1, "<|im_end|>": 2}
    assert Dialect.of(tool_templates.MISTRAL, special=special).shown == {5: "[TOOL_CALLS]"}
