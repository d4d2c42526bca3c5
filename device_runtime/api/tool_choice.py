"""Checks of a request's tools, its choice among them, and the turns with calls and results."""

from collections.abc import Mapping, Sequence
from typing import Literal

from device_runtime.api.chat_types import Function, FunctionTool, NamedTool, ToolChoice, Turn
from device_runtime.api.errors import ApiError
from device_runtime.tools.definition import NO_PARAMETERS, Tool, Tools


def read_tools(
    tools: Sequence[FunctionTool],
    choice: ToolChoice | None,
    *,
    parallel: bool,
) -> Tools:
    """Combine the fields `tools`, `tool_choice` and `parallel_tool_calls`.

    With a named function in `tool_choice` that tool is the only one left, and called once; with
    allowed tools, those are the only ones left.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    by_name: dict[str, Tool] = {}
    for number, entry in enumerate(tools):
        where = f"tools[{number}].function"
        tool = _read(entry.function, where)
        if tool.name in by_name:
            raise _error(f"{where}.name", f"is not unique: {tool.name!r}")
        by_name[tool.name] = tool
    all_tools = tuple(by_name.values())
    if choice is None or choice == "auto":
        return Tools(tools=all_tools, parallel=parallel)
    if choice == "none":
        return Tools()
    if not by_name:
        raise _error("tool_choice", "requires tools")
    if choice == "required":
        return Tools(tools=all_tools, required=True, parallel=parallel)
    if isinstance(choice, NamedTool):
        tool = _named(choice, by_name, "tool_choice")
        return Tools(tools=(tool,), required=True, parallel=False)
    allowed = {
        entry.function.name: _named(entry, by_name, f"tool_choice.allowed_tools.tools[{number}]")
        for number, entry in enumerate(choice.allowed_tools.tools)
    }
    required = choice.allowed_tools.mode == "required"
    return Tools(tools=tuple(allowed.values()), required=required, parallel=parallel)


def _named(choice: NamedTool, tools: Mapping[str, Tool], where: str) -> Tool:
    name = choice.function.name
    if name not in tools:
        raise _error(f"{where}.function.name", f"is not the name of a tool: {name!r}")
    return tools[name]


def _read(function: Function, where: str) -> Tool:
    parameters = function.parameters or NO_PARAMETERS
    where += ".parameters"
    if parameters.get("type") != "object":
        raise _error(where, 'must be a JSON schema of the type "object"')
    if function.strict:
        from device_runtime.json_schema import grammar  # most requests have no schema
        from device_runtime.json_schema.document import UnsupportedSchemaError

        try:
            grammar.rules(parameters)
        except UnsupportedSchemaError as error:
            reason = f"cannot be enforced strictly: {error}"
            raise _error(where, reason, "unsupported_schema") from None
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=parameters,
        strict=bool(function.strict),
    )


def check_tool_turns(turns: Sequence[Turn]) -> None:
    """Check that calls and results are in turns of the right roles, and match.

    Raises:
        ApiError: a field is invalid; the error names it.
    """
    calls: set[str] = set()
    for number, turn in enumerate(turns):
        where = f"messages[{number}]"
        if turn.tool_calls and turn.role != "assistant":
            raise _error(f"{where}.tool_calls", "is allowed only with the role assistant")
        calls |= {call.id for call in turn.tool_calls or ()}
        where += ".tool_call_id"
        if turn.role != "tool":
            if turn.tool_call_id is not None:
                raise _error(where, "is allowed only with the role tool")
        elif turn.tool_call_id is None:
            raise _error(where, "is required")
        elif turn.tool_call_id not in calls:
            raise _error(where, f"is not the id of an earlier call: {turn.tool_call_id!r}")


def _error(
    where: str,
    reason: str,
    code: Literal["invalid_value", "unsupported_schema"] = "invalid_value",
) -> ApiError:
    return ApiError(f"{where} {reason}", param=where, code=code)
