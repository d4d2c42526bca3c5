"""Anthropic's requests, translated or refused."""

import json
from typing import Any

import msgspec
import pytest

from device_runtime.api.anthropic.requests import parse_count, parse_message
from device_runtime.api.errors import ApiError
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.inference.engine import Message
from device_runtime.tools.dialect import Dialect

SERVED = ServedModel(
    model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",), max_messages=9
)
REASONING = Reasoning(
    begin="<think>",
    end="</think>",
    begin_tokens=(1,),
    end_tokens=(2,),
    opened=False,
    argument="enable_thinking",
    on=True,
    off=False,
)
THINKER = msgspec.structs.replace(SERVED, reasoning=REASONING)
USER = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {
    "name": "add",
    "description": "Adds",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def parsed(**fields: Any) -> ParsedRequest:
    body = {"model": "tiny", "max_tokens": 5, "messages": [USER], **fields}
    return parse_message(json.dumps(body).encode(), SERVED)


def roles(request: ParsedRequest) -> list[tuple[str, str]]:
    assert isinstance(request.generation.prompt, tuple)
    return [(turn.role, str(turn.content)) for turn in request.generation.prompt]


def test_sampling_and_limits() -> None:
    request = parsed(
        model="tiny:a",
        stream=True,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["a", "b"],
        metadata={"user_id": "x"},
        service_tier="auto",
        cache_control={"type": "ephemeral"},
    )
    generation = request.generation
    assert (request.model, request.stream, generation.adapter) == ("tiny:a", True, "a")
    assert (generation.max_tokens, generation.stop) == (5, ("a", "b"))
    assert (generation.temperature, generation.top_p, generation.top_k) == (0.5, 0.9, 7)
    assert parsed().generation.temperature == 0
    assert not parsed().stream


def test_system_prompt_is_the_first_turn() -> None:
    assert roles(parsed(system="Be brief.")) == [("system", "Be brief."), ("user", "Hi")]
    assert roles(parsed(system=[text("Be"), text("brief.")]))[0] == ("system", "Be\nbrief.")
    assert roles(parsed(system="")) == [("user", "Hi")]


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    messages = [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    assert roles(parsed(messages=messages)) == [("user", "a\nb\nc"), ("assistant", "d")]


def test_answer_that_has_begun_is_continued() -> None:
    begun = [USER, {"role": "assistant", "content": "The answer is ("}]
    assert parsed(messages=begun).generation.continues
    assert not parsed().generation.continues
    with pytest.raises(ApiError, match=r"^messages\[1\] cannot be combined with a tool_choice"):
        parsed(messages=begun, tools=[TOOL], tool_choice={"type": "any"})


def test_thoughts_of_earlier_answers_go_to_the_template() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        text("Yes"),
    ]
    messages = [USER, {"role": "assistant", "content": thoughts}]
    turn = parsed(messages=messages).generation.prompt[1]
    assert isinstance(turn, Message)
    assert (turn.content, turn.reasoning_content) == ("Yes", "Hm")
    messages[1] = {"role": "assistant", "content": thoughts[:1]}
    assert roles(parsed(messages=messages))[1:] == [("assistant", "")]


def test_calls_and_their_results() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1"}
    messages = [
        USER,
        {"role": "assistant", "content": [text("Wait."), CALL]},
        {
            "role": "user",
            "content": [result | {"content": [text("2"), text("3")]}, text("And now?")],
        },
    ]
    request = parsed(messages=messages, tools=[TOOL])
    assert [role for role, _ in roles(request)] == ["system", "user", "assistant", "user"]
    results = roles(request)[3][1]
    assert results.index("2\n3") < results.index("And now?")
    for content, shown in (("bad", "Error: bad"), (None, "Error: ")):
        failed = result | {"content": content, "is_error": True}
        messages[2] = {"role": "user", "content": [failed]}
        assert shown in roles(parsed(messages=messages, tools=[TOOL]))[3][1]


@pytest.mark.parametrize(
    ("choice", "required", "names", "parallel"),
    [
        (None, False, ["add", "sub"], True),
        ({"type": "auto"}, False, ["add", "sub"], True),
        ({"type": "auto", "disable_parallel_tool_use": True}, False, ["add", "sub"], False),
        ({"type": "any"}, True, ["add", "sub"], True),
        ({"type": "tool", "name": "sub"}, True, ["sub"], False),
        ({"type": "none"}, False, [], True),
    ],
)
def test_choice_of_tools(choice: Any, required: bool, names: list[str], parallel: bool) -> None:
    other = TOOL | {"name": "sub", "strict": True, "type": "custom"}
    tools = parsed(tools=[TOOL, other], tool_choice=choice).tools
    assert [tool.name for tool in tools.tools] == names
    assert (tools.required, tools.parallel) == (required, parallel)
    if names == ["add", "sub"]:
        assert [tool.strict for tool in tools.tools] == [False, True]
        assert tools.tools[0].parameters == TOOL["input_schema"]


def test_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    request = parsed(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert request.generation.guidance is not None
    assert parsed(output_config={}).generation.guidance is None


def test_counting_needs_no_limit_and_generates_nothing() -> None:
    body = {"model": "tiny", "messages": [USER], "tools": [TOOL]}
    request = parse_count(json.dumps(body).encode(), SERVED)
    whole = parsed(tools=[TOOL]).generation
    assert request.generation.counts
    assert request.generation.prompt == whole.prompt
    assert not whole.counts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        ({"model": None}, "model: "),
        ({"messages": [USER, {"role": "assistant", "content": "x"}] * 5}, "messages has 10 "),
        ({"model": "gpt"}, "the model 'gpt' does not exist"),
        ({"temperature": 1.5}, "temperature: "),
        ({"stop_sequences": [""]}, "stop_sequences[0]: "),
        ({"container": "x"}, "container is supported only as null"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers is supported only as []"),
        ({"context_management": {"edits": [{"type": "x"}]}}, "context_management is supported"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking: this model does not think",
        ),
        ({"thinking": {"type": "between_tools"}}, "thinking.type: "),
        ({"thread": {"type": "create"}}, "thread is supported only as null"),
        ({"fallbacks": "default"}, "fallbacks is supported only as []"),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "messages[0].content[0] is allowed only with the role assistant",
        ),
        ({"n": 2}, "n is not supported"),
        ({"system": [{"type": "image", "source": {}}]}, "system[0].type: "),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0].source.type is required",
        ),
        (
            # One turn: its second part is the first of the second message.
            {"messages": [USER, {"role": "user", "content": [IMAGE]}]},
            "messages[1].content[0].source.url is not supported: the model 'tiny' takes text alone",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "messages[0].content[0].type: Invalid value 'document'",
        ),
        (
            {"messages": [{"role": "user", "content": [CALL]}]},
            "messages[0].content[0] is allowed only with the role assistant",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_result", "tool_use_id": "1"}],
                    }
                ]
            },
            "messages[0].content[0] is allowed only with the role user",
        ),
        (
            {
                "system": "x",
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}
                ],
            },
            "messages[0].content[0].tool_use_id is not the id of an earlier call: '1'",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [CALL | {"name": "a b"}]}]},
            "messages[1].content[0].name: ",
        ),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name: "),
        ({"tools": [TOOL | {"input_schema": {"type": "array"}}]}, "tools[0].input_schema must be"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name is not unique"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]."),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading is supported only"),
        ({"tool_choice": {"type": "any"}}, "tool_choice requires tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice.name is not the name of a tool: 'x'",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"not": {"a": 1}}}}},
            "output_config.format.schema",
        ),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type: "),
        ({"system": [{"text": "Be brief."}]}, "system[0].type is required"),
    ],
)
def test_refusals_name_anthropics_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", ["disabled", "adaptive"])
def test_model_that_does_not_think_may_be_told_so(kind: str) -> None:
    assert roles(parsed(thinking={"type": kind}, output_config={"effort": "low"})) == [
        ("user", "Hi")
    ]


@pytest.mark.parametrize(
    ("fields", "arguments", "budget"),
    [
        ({}, {"enable_thinking": False}, None),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, None),
        ({"thinking": {"type": "adaptive"}}, {}, None),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            {"enable_thinking": True},
            None,
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"enable_thinking": True},
            1024,
        ),
    ],
)
def test_model_that_thinks(fields: dict[str, Any], arguments: Any, budget: int | None) -> None:
    body = {"model": "tiny", "max_tokens": 5, "messages": [USER], **fields}
    generation = parse_message(json.dumps(body).encode(), THINKER).generation
    assert generation.arguments == arguments
    assert generation.thinking is not None
    assert generation.thinking.budget == budget


def test_what_claude_code_sends_is_neutral() -> None:
    edits = [{"type": "clear_thinking_20251015", "keep": "all"}]
    assert roles(parsed(context_management={"edits": edits})) == [("user", "Hi")]
