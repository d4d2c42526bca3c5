"""Parsing of requests for responses: translated to a chat, whose checks and limits they share."""

from typing import Any

import msgspec

from device_runtime.api.chat_requests import chat_request
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.openai_responses.items import (
    PlacedItem,
    chat_turns,
    known_item,
    read_items,
)
from device_runtime.api.openai_responses.request_types import (
    BODY_IGNORED,
    BODY_WITHOUT_EFFECT,
    LOGPROBS,
    REASONING_WITHOUT_EFFECT,
    TOOL_IGNORED,
    TOOL_WITHOUT_EFFECT,
    AllowedFunctions,
    FunctionChoice,
    FunctionToolOfResponses,
    InputMessage,
    JsonSchemaFormat,
    ReasoningOptions,
    ResponsesBody,
    TextOptions,
)
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.api.translation import translated

_PLACES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.allowed_tools": "tool_choice",
    "tool_choice.function": "tool_choice",
}
"""Fields of a chat completion, and what they are called in a request for a response."""


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a response, checked and translated.

    Attributes:
        body: the request.
        conversation: the items to answer, those of earlier responses included.
        parsed: the same request as a chat.
        places: paths of the chat, and those of the request that they stand for.
    """

    body: ResponsesBody
    conversation: tuple[PlacedItem, ...]
    parsed: ParsedRequest
    places: dict[str, str]


def parse_response(
    data: bytes, served: ServedModel, store: ResponseStore, owner: str
) -> ResponseRequest:
    """Parse the body of a request for a response.

    Args:
        data: JSON.
        served: the model to answer the request.
        store: the responses that the request can refer to.
        owner: name of the request's API key; empty without keys.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    body = _body(data)
    items = [
        *_earlier_items(body.previous_response_id, store, owner),
        *read_items(body.input, lambda item_id: known_item(store.item(item_id, owner))),
    ]
    shown = items
    if body.instructions is not None:
        system = InputMessage(role="system", content=body.instructions)
        shown = [PlacedItem("instructions", system), *items]
    turns = chat_turns(shown)
    if not turns.messages:
        raise ApiError("input has no message to answer", param="input", code="invalid_value")
    places = _PLACES | turns.places | _tool_places(body)
    parsed = translated(chat_request, _chat_fields(body, turns.messages), places, served)
    return ResponseRequest(body=body, conversation=tuple(items), parsed=parsed, places=places)


def _body(data: bytes) -> ResponsesBody:
    fields = decode(data)
    check_fields(fields, ResponsesBody, BODY_WITHOUT_EFFECT, ignored=BODY_IGNORED)
    if isinstance(options := fields.get("reasoning"), dict):
        check_fields(options, ReasoningOptions, REASONING_WITHOUT_EFFECT, where="reasoning.")
    tools = fields.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict):
            _check_tool(tool, f"tools[{number}].")
    return convert(fields, ResponsesBody)


def _check_tool(tool: dict[str, Any], where: str) -> None:
    kind = tool.get("type")
    if isinstance(kind, str) and kind != "function":
        raise ApiError(
            f"{where}type {kind!r} is not supported; only functions are",
            param=f"{where}type",
            code="unsupported_value",
        )
    check_fields(
        tool,
        FunctionToolOfResponses,
        TOOL_WITHOUT_EFFECT,
        where=where,
        ignored=TOOL_IGNORED,
    )


def _earlier_items(response_id: str | None, store: ResponseStore, owner: str) -> list[PlacedItem]:
    if response_id is None:
        return []
    place = "previous_response_id"
    try:
        kept = store.get(response_id, owner)
    except KeyError:
        raise ApiError(
            f"the response {response_id!r} is not kept here; send the whole conversation as input "
            f"(this device keeps the latest {store.max_count} responses, until it restarts)",
            status=404,
            param=place,
            code="previous_response_not_found",
        ) from None
    return [PlacedItem(place, known_item(item)) for item in kept.all_items()]


def _chat_fields(body: ResponsesBody, messages: list[dict[str, Any]]) -> dict[str, Any]:
    text = body.text or TextOptions()
    reasoning = body.reasoning or ReasoningOptions()
    has_logprobs = bool(body.top_logprobs) or LOGPROBS in (body.include or ())
    fields = {
        "messages": messages,
        "model": body.model,
        "stream": body.stream,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": has_logprobs or None,
        "top_logprobs": body.top_logprobs if has_logprobs else None,
        "response_format": _response_format(text),
        "reasoning_effort": reasoning.effort,
        "tools": [_tool(tool) for tool in body.tools or ()] or None,
        "tool_choice": _tool_choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _response_format(text: TextOptions) -> dict[str, Any] | None:
    if text.format is None:
        return None
    form = msgspec.to_builtins(text.format)
    if isinstance(text.format, JsonSchemaFormat):
        return {"type": form.pop("type"), "json_schema": form}
    assert isinstance(form, dict)
    return form


def _tool(tool: FunctionToolOfResponses) -> dict[str, Any]:
    function = msgspec.to_builtins(tool)
    return {"type": function.pop("type"), "function": function}


def _tool_choice(body: ResponsesBody) -> str | dict[str, Any] | None:
    match body.tool_choice:
        case FunctionChoice(name=name):
            return _function(name)
        case AllowedFunctions(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [_function(tool.name) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
        case choice:
            return choice


def _function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _tool_places(body: ResponsesBody) -> dict[str, str]:
    places = {
        f"tools[{number}].function": f"tools[{number}]" for number in range(len(body.tools or ()))
    }
    if isinstance(body.tool_choice, AllowedFunctions):
        places |= {
            f"tool_choice.allowed_tools.tools[{number}].function": f"tool_choice.tools[{number}]"
            for number in range(len(body.tool_choice.tools))
        }
    return places
