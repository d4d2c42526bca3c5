"""Parsing of Ollama's requests: each becomes a chat or completion request, whose rules apply."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from device_runtime.api.chat_requests import chat_request
from device_runtime.api.completion_requests import completion_request
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.ollama import request_types as bodies
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.api.translation import continues, translated

LATEST = ":latest"
"""Tag of a model's name that says nothing."""
LONGEST = 2**31 - 1
"""Tokens of an answer that only the context ends."""

_NOTHING = bodies.OllamaMessageParam(role="user", content=".")
"""Stands for the prompt of a request without one, whose other fields are checked all the same."""

B = TypeVar("B", bound=bodies.Body)

_OPTIONS = {
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    **{
        name: name
        for name in (
            "stop",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "presence_penalty",
            "frequency_penalty",
        )
    },
}
"""Fields of OpenAI's requests by the options that set them."""

_PLACES = {field: f"options.{option}" for option, field in _OPTIONS.items()} | {
    "enable_thinking": "think",
    "reasoning_effort": "think",
    "response_format": "format",
    "response_format.json_schema.schema": "format",
}


class OllamaRequest(ParsedRequest, frozen=True, kw_only=True):
    """A request, checked and translated.

    Attributes:
        done_reason: reason of the end that is sent for a request without a prompt, which generates
            nothing; None for a request with one.
    """

    done_reason: Literal["load", "unload"] | None = None


def parse_ollama_chat(data: bytes, served: ServedModel) -> OllamaRequest:
    """Parse the body of a chat.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    fields = decode(data)
    check_fields(fields, bodies.OllamaChatBody, bodies.CHAT_WITHOUT_EFFECT)
    turns = fields.get("messages")
    for number, turn in enumerate(turns if isinstance(turns, list) else []):
        if isinstance(turn, dict):
            check_fields(turn, bodies.OllamaMessageParam, {}, where=f"messages[{number}].")
    body = _body(fields, bodies.OllamaChatBody)
    messages, places = _messages(body.messages or [_NOTHING])
    tools = [
        {"type": "function", "function": msgspec.to_builtins(tool.function)}
        for tool in body.tools or ()
    ]
    prompt = {
        "messages": messages,
        "continue_final_message": continues(messages),
        "tools": tools,
    }
    places["continue_final_message"] = f"messages[{len(body.messages or ()) - 1}]"
    parsed = _parsed(chat_request, body, served, prompt, places)
    return parsed if body.messages else _loading(parsed, body)


def parse_ollama_generate(data: bytes, served: ServedModel) -> OllamaRequest:
    """Parse the body of a request for an answer to one prompt; see `parse_ollama_chat`."""
    fields = decode(data)
    check_fields(fields, bodies.OllamaGenerateBody, bodies.GENERATE_WITHOUT_EFFECT)
    body = _body(fields, bodies.OllamaGenerateBody)
    prompt = body.prompt or _NOTHING.content
    if body.raw:
        for name in ("format", "system", "think", "images"):
            if getattr(body, name):
                raise ApiError(
                    f"raw cannot be combined with {name}", param="raw", code="unsupported_value"
                )
        parsed = _parsed(completion_request, body, served, {"prompt": prompt}, {})
    else:
        messages: list[dict[str, Any]] = []
        if body.system:
            messages.append({"role": "system", "content": body.system})
        places = {"messages": "prompt"} | _image_places(body.images, len(messages), "images")
        messages.append({"role": "user", "content": _content(prompt, body.images)})
        parsed = _parsed(chat_request, body, served, {"messages": messages}, places)
    return parsed if body.prompt else _loading(parsed, body)


def _body(fields: dict[str, Any], kind: type[B]) -> B:
    options = fields.get("options")
    if isinstance(options, dict):
        check_fields(
            options,
            bodies.OllamaOptions,
            bodies.OPTIONS_WITHOUT_EFFECT,
            where="options.",
            ignored=bodies.OPTIONS_IGNORED,
        )
    return convert(fields, kind)


def _parsed(
    parse: Callable[[dict[str, Any], ServedModel], ParsedRequest],
    body: bodies.Body,
    served: ServedModel,
    prompt: dict[str, Any],
    places: dict[str, str],
) -> OllamaRequest:
    options = body.options or bodies.OllamaOptions()
    fields = {field: getattr(options, name) for name, field in _OPTIONS.items()}
    if options.num_predict is not None and options.num_predict <= 0:
        fields["max_tokens"] = LONGEST
    fields |= prompt | {
        "model": body.model.removesuffix(LATEST),
        "stream": body.stream is not False,
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "response_format": _response_format(body.format),
    }
    if parse is completion_request:
        fields["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
        del fields["top_logprobs"], fields["response_format"]
    elif body.think is not None and (body.think or served.can_stop_thinking):
        # As in Ollama, a model that always thinks cannot be told not to.
        switch = "enable_thinking" if isinstance(body.think, bool) else "reasoning_effort"
        fields[switch] = body.think
    parsed = translated(parse, fields, _PLACES | places, served)
    return OllamaRequest(**msgspec.structs.asdict(parsed) | {"model": body.model})


def _loading(parsed: OllamaRequest, body: bodies.Body) -> OllamaRequest:
    """Return a request that waits until the model is loaded, and generates nothing."""
    return msgspec.structs.replace(
        parsed,
        generation=msgspec.structs.replace(parsed.generation, counts=True),
        done_reason="unload" if body.keep_alive in (0, "0", "0s") else "load",
    )


def _messages(
    turns: Sequence[bodies.OllamaMessageParam],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Translate messages; return them, and their places in the request by those in the result."""
    messages: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    calls: list[tuple[str, str]] = []
    has_calls = False
    for number, turn in enumerate(turns):
        message: dict[str, Any] = {
            "role": turn.role,
            "content": _content(turn.content, turn.images),
            "reasoning_content": turn.thinking,
        }
        if turn.role == "tool":
            if not has_calls:
                # The client has cut its call off with the start of the conversation.
                continue
            message["tool_call_id"] = _called(turn, calls)
        elif turn.tool_calls:
            has_calls = True
            calls = [
                (call.id or f"call_{number}_{index}", call.function.name)
                for index, call in enumerate(turn.tool_calls)
            ]
            message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": msgspec.json.encode(call.function.arguments).decode(),
                    },
                }
                for (call_id, _), call in zip(calls, turn.tool_calls, strict=True)
            ]
        places[f"messages[{len(messages)}]"] = f"messages[{number}]"
        places |= _image_places(turn.images, len(messages), f"messages[{number}].images")
        messages.append(message)
    return messages, places


def _content(text: str | None, images: Sequence[str] | None) -> str | list[dict[str, Any]]:
    """Translate a text and the images before it."""
    if not images:
        return text or ""
    urls = [f"data:;base64,{image}" for image in images]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*parts, {"type": "text", "text": text or ""}]


def _image_places(images: Sequence[str] | None, message: int, place: str) -> dict[str, str]:
    """Return the places of the images of a translated message, for errors."""
    return {
        f"messages[{message}].content[{number}].image_url": f"{place}[{number}]"
        for number in range(len(images or ()))
    }


def _called(turn: bodies.OllamaMessageParam, calls: list[tuple[str, str]]) -> str:
    """Return the id of a result's call, and take it from the calls that have no result yet."""
    for call in calls:
        if turn.tool_call_id in (None, call[0]) and turn.tool_name in (None, call[1]):
            calls.remove(call)
            return call[0]
    # As for chat requests: the error names the message.
    return turn.tool_call_id or turn.tool_name or ""


def _response_format(form: Any) -> dict[str, Any] | None:
    if not form:
        return None
    if form == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
