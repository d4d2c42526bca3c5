"""What a request says about tools: read, or refused with the field's name."""

import json
from typing import Any

import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.tools.definition import NO_PARAMETERS, Tool, Tools
from device_runtime.tools.dialect import Dialect

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA, "strict": None},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def read_tools(tools: object, choice: object, parallel: object) -> Tools:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
    }
    return parse(body).tools


def check_tool_turns(turns: list[dict[str, Any]]) -> None:
    parse({"messages": turns})


def parse(body: dict[str, Any]) -> ParsedRequest:
    served = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
    return parse_chat(json.dumps(body).encode(), served)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def call(**fields: Any) -> dict[str, Any]:
    made = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {**made, **fields}


def refused(error: pytest.ExceptionInfo[ApiError], where: str, code: str = "invalid_value") -> None:
    assert (error.value.status, error.value.param, error.value.code) == (400, where, code)
    assert where in str(error.value)


def test_tools_are_read() -> None:
    found = read_tools([WEATHER, CLOCK], None, None)
    weather = Tool(name="get_weather", description="d", parameters=SCHEMA)
    assert found == Tools(tools=(weather, Tool(name="clock", parameters=NO_PARAMETERS)))
    assert weather.definition == {
        "type": "function",
        "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA},
    }


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_request_without_tools(tools: object, choice: object) -> None:
    assert read_tools(tools, choice, None) == Tools()


def test_choices() -> None:
    tools = [WEATHER, CLOCK]
    assert read_tools(tools, "none", None) == Tools()
    assert not read_tools(tools, "auto", False).parallel
    required = read_tools(tools, "required", True)
    assert (required.required, required.parallel, len(required.tools)) == (True, True, 2)
    named = read_tools(tools, {"type": "function", "function": {"name": "clock"}}, True)
    assert named == Tools(tools=(Tool(name="clock"),), required=True, parallel=False)


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_left() -> None:
    tools = [WEATHER, CLOCK, function()]
    auto = read_tools(tools, allowed("auto", "clock", "f"), True)
    assert auto == Tools(tools=(Tool(name="clock"), Tool(name="f")))
    required = read_tools(tools, allowed("required", "clock", "clock"), False)
    assert required == Tools(tools=(Tool(name="clock"),), required=True, parallel=False)


def test_most_tools_there_may_be() -> None:
    tools = [function(name=f"f{number}") for number in range(128)]
    assert len(read_tools(tools, None, None).tools) == 128
    with pytest.raises(ApiError) as error:
        read_tools([*tools, WEATHER], None, None)
    refused(error, "tools")


@pytest.mark.parametrize(
    ("tools", "where", "code"),
    [
        ({}, "tools", "invalid_value"),
        ("x", "tools", "invalid_value"),
        ([1], "tools[0]", "invalid_value"),
        ([{"type": "custom", "function": {}}], "tools[0].type", "invalid_value"),
        ([{"function": {"name": "f"}}], "tools[0].type", "invalid_value"),
        ([{"type": "function"}], "tools[0].function", "invalid_value"),
        ([{**CLOCK, "x": 1}], "tools[0].x", "unsupported_parameter"),
        ([CLOCK, function(x=1)], "tools[1].function.x", "unsupported_parameter"),
        ([function(name=None)], "tools[0].function.name", "invalid_value"),
        ([function(name="")], "tools[0].function.name", "invalid_value"),
        ([function(name="a b")], "tools[0].function.name", "invalid_value"),
        ([function(name="a\n")], "tools[0].function.name", "invalid_value"),
        ([function(name="é")], "tools[0].function.name", "invalid_value"),
        ([function(name="a" * 65)], "tools[0].function.name", "invalid_value"),
        ([CLOCK, CLOCK], "tools[1].function.name", "invalid_value"),
        ([function(description=1)], "tools[0].function.description", "invalid_value"),
        ([function(strict="yes")], "tools[0].function.strict", "invalid_value"),
        ([function(parameters=[])], "tools[0].function.parameters", "invalid_value"),
        ([function(parameters={"type": "array"})], "tools[0].function.parameters", "invalid_value"),
    ],
)
def test_wrong_tools_are_refused(tools: object, where: str, code: str) -> None:
    with pytest.raises(ApiError) as error:
        read_tools(tools, None, None)
    refused(error, where, code)


@pytest.mark.parametrize(
    ("choice", "where", "code"),
    [
        ("any", "tool_choice", "invalid_value"),
        (1, "tool_choice", "invalid_value"),
        ({"type": "custom"}, "tool_choice.type", "invalid_value"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "invalid_value"),
        (allowed("any", "clock"), "tool_choice.allowed_tools.mode", "invalid_value"),
        (allowed("auto"), "tool_choice.allowed_tools.tools", "invalid_value"),
        (
            allowed("auto", "clock", "other"),
            "tool_choice.allowed_tools.tools[1].function.name",
            "invalid_value",
        ),
        ({"type": "function"}, "tool_choice.function", "invalid_value"),
        ({"type": "function", "function": {}}, "tool_choice.function.name", "invalid_value"),
        ({"type": "function", "name": "clock"}, "tool_choice.name", "unsupported_parameter"),
        (
            {"type": "function", "function": {"name": "other"}},
            "tool_choice.function.name",
            "invalid_value",
        ),
    ],
)
def test_wrong_choices_are_refused(choice: object, where: str, code: str) -> None:
    with pytest.raises(ApiError) as error:
        read_tools([CLOCK], choice, None)
    refused(error, where, code)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_choice_without_tools_is_refused(choice: object) -> None:
    with pytest.raises(ApiError) as error:
        read_tools(None, choice, None)
    refused(error, "tool_choice")


def test_wrong_parallel_tool_calls_is_refused() -> None:
    with pytest.raises(ApiError) as error:
        read_tools([CLOCK], None, 1)
    refused(error, "parallel_tool_calls")


def test_strict_tool_whose_schema_cannot_be_kept_to_is_refused() -> None:
    parameters = {"type": "object", "not": {}}
    assert read_tools([function(parameters=parameters)], None, None).tools
    with pytest.raises(ApiError, match="not is not supported") as error:
        read_tools([CLOCK, function(parameters=parameters, strict=True)], None, None)
    refused(error, "tools[1].function.parameters", "unsupported_schema")


def test_turns_with_calls_and_results_are_right() -> None:
    check_tool_turns(
        [
            {"role": "user", "content": "Hi", "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": [call(), call(id="c2", index=1)]},
            {"role": "tool", "content": "1", "tool_call_id": "c2"},
            {"role": "tool", "content": "1", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Done", "tool_calls": None},
        ]
    )


@pytest.mark.parametrize(
    ("turn", "where", "code"),
    [
        ({"role": "user", "tool_calls": [call()]}, "messages[0].tool_calls", "invalid_value"),
        ({"role": "user", "tool_call_id": "c1"}, "messages[0].tool_call_id", "invalid_value"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content", "invalid_value"),
        ({"role": "assistant", "tool_calls": {}}, "messages[0].tool_calls", "invalid_value"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0]", "invalid_value"),
        (
            {"role": "assistant", "tool_calls": [call(id=None)]},
            "messages[0].tool_calls[0].id",
            "invalid_value",
        ),
        (
            {"role": "assistant", "tool_calls": [call(), call(type="custom")]},
            "messages[0].tool_calls[1].type",
            "invalid_value",
        ),
        (
            {"role": "assistant", "tool_calls": [call(function=None)]},
            "messages[0].tool_calls[0].function",
            "invalid_value",
        ),
        (
            {"role": "assistant", "tool_calls": [call(function={"name": 1, "arguments": "{}"})]},
            "messages[0].tool_calls[0].function.name",
            "invalid_value",
        ),
        (
            {"role": "assistant", "tool_calls": [call(function={"name": "f", "arguments": {}})]},
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        ({"role": "tool", "content": "1"}, "messages[0].tool_call_id", "invalid_value"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[0].tool_call_id", "invalid_value"),
    ],
)
def test_wrong_turns_are_refused(turn: dict[str, Any], where: str, code: str) -> None:
    with pytest.raises(ApiError) as error:
        check_tool_turns([turn])
    refused(error, where, code)


def test_result_before_its_call_is_refused() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "tool_calls": [call()]},
    ]
    with pytest.raises(ApiError, match="c1") as error:
        check_tool_turns(turns)
    refused(error, "messages[0].tool_call_id")
