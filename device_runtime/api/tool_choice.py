"""A request's tools, its choice of them, and the turns that belong to them: what they mean."""

from collections.abc import Sequence
from typing import Literal

from device_runtime.api.errors import ApiError
from device_runtime.api.request_types import Function, FunctionTool, NamedTool, Turn
from device_runtime.json_schema import structured_output
from device_runtime.tools.definition import NO_PARAMETERS, Tool, Tools


def read_tools(
    tools: Sequence[FunctionTool],
    choice: Literal["none", "auto", "required"] | NamedTool | None,
    *,
    parallel: bool,
) -> Tools:
    """What the fields `tools`, `tool_choice` and `parallel_tool_calls` say together.

    With a named function in `tool_choice` that tool is the only one left, and called once.

    Raises:
        ApiError: what is wrong, and in which field.
    """
    found: dict[str, Tool] = {}
    for number, each in enumerate(tools):
        where = f"tools[{number}].function"
        tool = _read(each.function, where)
        if tool.name in found:
            raise _error(f"{where}.name", f"another tool has the name {tool.name!r}")
        found[tool.name] = tool
    several = tuple(found.values())
    if choice is None or choice == "auto":
        return Tools(tools=several, parallel=parallel)
    if choice == "none":
        return Tools()
    if not found:
        raise _error("tool_choice", "it is allowed only with tools")
    if choice == "required":
        return Tools(tools=several, required=True, parallel=parallel)
    name = choice.function.name
    if name not in found:
        raise _error("tool_choice.function.name", f"there is no tool {name!r}")
    return Tools(tools=(found[name],), required=True, parallel=False)


def _read(function: Function, where: str) -> Tool:
    parameters = function.parameters or NO_PARAMETERS
    where += ".parameters"
    if parameters.get("type") != "object":
        raise _error(where, 'it must be a JSON schema of the type "object"')
    if function.strict:
        try:
            structured_output.rules(parameters)
        except structured_output.UnsupportedSchemaError as error:
            reason = f"this schema cannot be kept to strictly: {error}"
            raise _error(where, reason, "unsupported_schema") from None
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=parameters,
        strict=bool(function.strict),
    )


def check_tool_turns(turns: Sequence[Turn]) -> None:
    """Check that calls and results are in turns of the right roles, and belong together.

    Raises:
        ApiError: what is wrong, and in which field.
    """
    calls: set[str] = set()
    for number, turn in enumerate(turns):
        where = f"messages[{number}]"
        if turn.tool_calls is not None and turn.role != "assistant":
            raise _error(f"{where}.tool_calls", "only an assistant calls tools")
        calls |= {call.id for call in turn.tool_calls or ()}
        where += ".tool_call_id"
        if turn.role != "tool":
            if turn.tool_call_id is not None:
                raise _error(where, "only a tool's turn answers a call")
        elif turn.tool_call_id is None:
            raise _error(where, "it is required")
        elif turn.tool_call_id not in calls:
            raise _error(where, f"no turn before it has a call with the id {turn.tool_call_id!r}")


def _error(
    where: str,
    reason: str,
    code: Literal["invalid_value", "unsupported_schema"] = "invalid_value",
) -> ApiError:
    return ApiError(f"{where}: {reason}", param=where, code=code)
