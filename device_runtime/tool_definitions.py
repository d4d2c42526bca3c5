"""A request's `tools`, `tool_choice` and the turns that belong to them: checked and read.

The form is that of OpenAI's chat completions. What is wrong is told with the field's name.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

import msgspec

from device_runtime import structured_output
from device_runtime.openai_api import ApiError

MAX_TOOLS = 128
"""OpenAI's limit."""

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of a tool that declares no parameters."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FUNCTION_FIELDS = {"name", "description", "parameters", "strict"}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call.

    Attributes:
        name: unique in its request; letters, digits, `_` and `-`.
        description: what it does; may be empty.
        parameters: JSON schema of its arguments, an object's.
        strict: the arguments must keep to that schema.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: NO_PARAMETERS)
    strict: bool = False

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as chat templates take it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about tools.

    Attributes:
        tools: all that may be called; empty where the model must not call any.
        required: the answer is one or more calls and nothing else.
        parallel: an answer may have several calls.
    """

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True


def read_tools(
    tools: object,
    choice: object,
    parallel: object,
) -> Tools:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`; None for a field that is not given.

    With a named function in `tool_choice` that tool is the only one left, and called once.

    Args:
        tools: as decoded from JSON.
        choice: likewise.
        parallel: likewise.

    Raises:
        ApiError: what is wrong, and in which field.
    """
    found = _read_all(tools)
    if parallel is not None and not isinstance(parallel, bool):
        raise _error("parallel_tool_calls", "it must be true or false")
    several = parallel is not False
    for number, tool in enumerate(found):
        if tool.strict:
            try:
                structured_output.rules(tool.parameters)
            except structured_output.UnsupportedSchemaError as error:
                where = f"tools[{number}].function.parameters"
                reason = f"this schema cannot be kept to strictly: {error}"
                raise _error(where, reason, "unsupported_schema") from None
    if choice is None or choice == "auto":
        return Tools(tools=found, parallel=several)
    if choice == "none":
        return Tools()
    if not found:
        raise _error("tool_choice", "it is allowed only with tools")
    if choice == "required":
        return Tools(tools=found, required=True, parallel=several)
    name = _chosen(choice)
    for tool in found:
        if tool.name == name:
            return Tools(tools=(tool,), required=True, parallel=False)
    raise _error("tool_choice.function.name", f"there is no tool {name!r}")


def check_tool_turns(messages: Sequence[dict[str, Any]]) -> None:
    """Check the calls of earlier assistant turns, and the results in `tool` turns.

    Raises:
        ApiError: what is wrong, and in which field.
    """
    calls: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, made = message.get("role"), message.get("tool_calls")
        if role != "assistant" and made is not None:
            raise _error(f"{where}.tool_calls", "only an assistant calls tools")
        if role != "tool" and message.get("tool_call_id") is not None:
            raise _error(f"{where}.tool_call_id", "only a tool's turn answers a call")
        if role == "assistant" and made is not None:
            if not isinstance(made, list) or not made:
                raise _error(f"{where}.tool_calls", "it must be an array of at least one call")
            for index, call in enumerate(made):
                calls.add(_call_id(call, f"{where}.tool_calls[{index}]"))
        elif role == "tool":
            answered = message.get("tool_call_id")
            if not isinstance(answered, str):
                raise _error(f"{where}.tool_call_id", "it is required, as a string")
            if answered not in calls:
                reason = f"no turn before it has a call with the id {answered!r}"
                raise _error(f"{where}.tool_call_id", reason)


def _read_all(tools: object) -> tuple[Tool, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise _error("tools", "it must be an array")
    if len(tools) > MAX_TOOLS:
        reason = f"it has {len(tools)} tools; the most is {MAX_TOOLS}"
        raise _error("tools", reason, "array_above_max_length")
    found: dict[str, Tool] = {}
    for number, each in enumerate(tools):
        tool = _read(each, f"tools[{number}]")
        if tool.name in found:
            reason = f"another tool has the name {tool.name!r}"
            raise _error(f"tools[{number}].function.name", reason)
        found[tool.name] = tool
    return tuple(found.values())


def _read(tool: object, where: str) -> Tool:
    fields = _object(tool, where, {"type", "function"})
    _check_type(fields, where)
    where += ".function"
    function = _object(fields.get("function"), where, _FUNCTION_FIELDS)
    name = function.get("name")
    if not _is_name(name):
        raise _error(f"{where}.name", "it must be 1 to 64 letters, digits, `_` or `-`")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise _error(f"{where}.description", "it must be a string")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise _error(f"{where}.strict", "it must be true or false")
    parameters = function.get("parameters")
    if parameters is None or parameters == {}:
        parameters = NO_PARAMETERS
    elif not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise _error(f"{where}.parameters", 'it must be a JSON schema of the type "object"')
    return Tool(
        name=name, description=description or "", parameters=parameters, strict=bool(strict)
    )


def _chosen(choice: object) -> str:
    if isinstance(choice, str):
        raise _error("tool_choice", 'it must be "none", "auto", "required" or a function')
    fields = _object(choice, "tool_choice", {"type", "function"})
    _check_type(fields, "tool_choice")
    function = _object(fields.get("function"), "tool_choice.function", {"name"})
    name = function.get("name")
    if not isinstance(name, str):
        raise _error("tool_choice.function.name", "it is required, as a string")
    return name


def _call_id(call: object, where: str) -> str:
    fields = _object(call, where, {"id", "type", "function", "index"})
    _check_type(fields, where)
    if not isinstance(fields.get("id"), str) or not fields["id"]:
        raise _error(f"{where}.id", "it is required, as a string")
    function = _object(fields.get("function"), f"{where}.function", {"name", "arguments"})
    if not _is_name(function.get("name")):
        raise _error(f"{where}.function.name", "it must be a tool's name")
    if not isinstance(function.get("arguments"), str):
        raise _error(f"{where}.function.arguments", "it must be JSON in a string")
    return str(fields["id"])


def _object(value: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error(where, "it must be an object" if value is not None else "it is required")
    for name in value:
        if name not in known:
            raise _error(f"{where}.{name}", "it is not supported", "unsupported_parameter")
    return value


def _check_type(fields: dict[str, Any], where: str) -> None:
    if fields.get("type") != "function":
        raise _error(f"{where}.type", 'it must be "function"', "unsupported_value")


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _error(
    where: str,
    reason: str,
    code: Literal[
        "invalid_value",
        "unsupported_value",
        "unsupported_parameter",
        "unsupported_schema",
        "array_above_max_length",
    ] = "invalid_value",
) -> ApiError:
    return ApiError(f"{where}: {reason}", param=where, code=code)
