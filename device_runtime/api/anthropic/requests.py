"""Parsing of Anthropic's requests: each becomes a chat request, whose rules then apply."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from device_runtime.api.anthropic import request_types as bodies
from device_runtime.api.chat_requests import chat_request
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.api.translation import continues, translated

B = TypeVar("B", bound=bodies.CountTokensBody)

_ROLES: dict[type, str] = {
    bodies.ImageBlockParam: "user",
    bodies.ThinkingBlockParam: "assistant",
    bodies.ToolUseBlockParam: "assistant",
    bodies.ToolResultBlockParam: "user",
}
"""Roles of the messages that blocks are allowed in; others may be in all."""


class MessageRequest(ParsedRequest, frozen=True, kw_only=True):
    """A request, checked and translated.

    Attributes:
        shows_thoughts: whether the answer has the text of its thoughts.
    """

    shows_thoughts: bool = True


def parse_message(data: bytes, served: ServedModel) -> MessageRequest:
    """Parse the body of a request for a message.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    body = _body(data, bodies.MessagesBody)
    sampling = {
        "max_tokens": body.max_tokens,
        "stream": body.stream,
        "stop": body.stop_sequences,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
    }
    return _parsed(body, sampling, served)


def parse_count(data: bytes, served: ServedModel) -> MessageRequest:
    """Parse the body of a request that counts a prompt's tokens; see `parse_message`."""
    parsed = _parsed(_body(data, bodies.CountTokensBody), {}, served)
    counting = msgspec.structs.replace(parsed.generation, counts=True)
    return msgspec.structs.replace(parsed, generation=counting)


def _body(data: bytes, kind: type[B]) -> B:
    fields = decode(data)
    check_fields(fields, kind, bodies.WITHOUT_EFFECT, ignored=bodies.IGNORED)
    tools = fields.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict):
            check_fields(
                tool,
                bodies.ToolParam,
                bodies.TOOL_WITHOUT_EFFECT,
                where=f"tools[{number}].",
                ignored=bodies.TOOL_IGNORED,
            )
    return convert(fields, kind)


def _parsed(
    body: bodies.CountTokensBody, sampling: dict[str, Any], served: ServedModel
) -> MessageRequest:
    turns = _Turns()
    if body.system:
        turns.add("system", body.system, "system")
    for number, message in enumerate(body.messages):
        turns.add(message.role, message.content, f"messages[{number}]")
    tools = [_tool(tool) for tool in body.tools or ()]
    fields = {
        "model": body.model,
        "messages": turns.messages,
        "continue_final_message": continues(turns.messages),
        "tools": tools,
        **_tool_choice(body.tool_choice, tools),
        **_response_format(body.output_config),
        **_thinking(body, served),
        **sampling,
    }
    places = {
        **turns.places,
        "continue_final_message": f"messages[{len(body.messages) - 1}]",
        "enable_thinking": "thinking",
        "reasoning_effort": "output_config.effort",
        "thinking_budget_tokens": "thinking.budget_tokens",
        "response_format": "output_config.format",
        "response_format.json_schema.schema": "output_config.format.schema",
        "stop": "stop_sequences",
        "tool_choice.function.name": "tool_choice.name",
    }
    for number in range(len(tools)):
        places[f"tools[{number}].function"] = f"tools[{number}]"
        places[f"tools[{number}].function.parameters"] = f"tools[{number}].input_schema"
    parsed = translated(chat_request, fields, places, served)
    display = getattr(body.thinking, "display", None)
    return MessageRequest(**msgspec.structs.asdict(parsed), shows_thoughts=display != "omitted")


class _Turns:
    """The messages of a chat request, as they are translated.

    Attributes:
        messages: the messages.
        places: where they were in the original request, for errors.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: dict[str, str] = {}

    def add(
        self,
        role: str,
        content: str | Sequence[bodies.BlockParam | bodies.OnlyTextParam],
        place: str,
    ) -> None:
        """Add a message: its results of calls become turns of their own."""
        if isinstance(content, str):
            self._text(role, content, place)
            return
        for number, block in enumerate(content):
            where = f"{place}.content[{number}]"
            allowed = _ROLES.get(type(block), role)
            if role != allowed:
                message = f"{where} is allowed only with the role {allowed}"
                raise ApiError(message, param=where, code="invalid_value")
            match block:
                case bodies.TextBlockParam(text=text) | bodies.OnlyTextParam(text=text):
                    self._text(role, text, where)
                case bodies.ImageBlockParam(source=source):
                    self._image(role, source, where)
                case bodies.ThinkingBlockParam(thinking=thoughts):
                    turn = self._turn(role, where)
                    turn.setdefault("content", [])
                    turn["reasoning_content"] = turn.get("reasoning_content", "") + thoughts
                case bodies.ToolUseBlockParam(id=call, name=name, input=arguments):
                    turn = self._turn(role, where)
                    calls = turn.setdefault("tool_calls", [])
                    calls.append(_call(call, name, arguments))
                    at = f"{self._last}.tool_calls[{len(calls) - 1}]"
                    self.places |= {f"{at}.function": where, at: where}
                case bodies.ToolResultBlockParam():
                    self._result(block, where)

    @property
    def _last(self) -> str:
        return f"messages[{len(self.messages) - 1}]"

    def _turn(self, role: str, place: str) -> dict[str, Any]:
        """Return the last turn if it has the same role, else a new one."""
        if not self.messages or self.messages[-1]["role"] != role:
            self.messages.append({"role": role})
            self.places[self._last] = place
        return self.messages[-1]

    def _text(self, role: str, text: str, place: str) -> None:
        parts = self._turn(role, place).setdefault("content", [])
        parts.append({"type": "text", "text": text})

    def _image(
        self, role: str, source: bodies.Base64ImageSource | bodies.UrlImageSource, place: str
    ) -> None:
        parts = self._turn(role, place).setdefault("content", [])
        if isinstance(source, bodies.UrlImageSource):
            url, field = source.url, "url"
        else:
            url, field = f"data:{source.media_type};base64,{source.data}", "data"
        self.places[f"{self._last}.content[{len(parts)}].image_url"] = f"{place}.source.{field}"
        parts.append({"type": "image_url", "image_url": {"url": url}})

    def _result(self, block: bodies.ToolResultBlockParam, place: str) -> None:
        content = block.content or ""
        parts = [content] if isinstance(content, str) else [part.text for part in content]
        text = "\n".join(parts)
        self.messages.append(
            {
                "role": "tool",
                "tool_call_id": block.tool_use_id,
                "content": f"Error: {text}" if block.is_error else text,
            }
        )
        self.places |= {
            self._last: place,
            f"{self._last}.tool_call_id": f"{place}.tool_use_id",
        }


def _call(call: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    text = msgspec.json.encode(arguments).decode()
    return {"id": call, "type": "function", "function": {"name": name, "arguments": text}}


def _tool(tool: bodies.ToolParam) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: Any, tools: Sequence[Any]) -> dict[str, Any]:
    match choice:
        case bodies.AnyChoice():
            name: Any = "required"
        case bodies.ToolChoiceParam(name=tool):
            name = {"type": "function", "function": {"name": tool}}
        case bodies.NoneChoice():
            name = "none"
        case _:
            name = None
    parallel = choice is None or not choice.disable_parallel_tool_use
    return {"tool_choice": name, "parallel_tool_calls": parallel}


def _thinking(body: bodies.CountTokensBody, served: ServedModel) -> dict[str, Any]:
    effort = body.output_config.effort if body.output_config is not None else None
    match body.thinking:
        case bodies.ThinkingEnabled(budget_tokens=budget):
            fields = {"enable_thinking": True, "thinking_budget_tokens": budget}
        case bodies.ThinkingAdaptive():
            fields = {}
        case bodies.ThinkingDisabled():
            return {"enable_thinking": False}
        case _:
            # Clients that do not ask for thoughts expect none before the text.
            return {"enable_thinking": False} if served.can_stop_thinking else {}
    return fields | {"reasoning_effort": effort if served.reasoning is not None else None}


def _response_format(config: bodies.OutputConfig | None) -> dict[str, Any]:
    if config is None or config.format is None:
        return {}
    schema = {"name": "answer", "schema": config.format.schema}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
