"""OpenAI's chat completions JSON, to and from the engine's types. Pure functions.

A request gets what it asks for or an error that names the field: a field that would change the
answer and that this runtime does not know is never passed over in silence.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.engine import FinishReason, GenerationRequest, Message, Usage

_ZERO = (0, 0.0)
# Fields that say nothing about the answer itself.
_IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
# Fields whose function is missing here, and the values that ask for nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": _ZERO,
    "presence_penalty": _ZERO,
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
# What OpenAI's clients send back with an earlier answer.
_MESSAGE_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "tool_calls": ([],),
}


class ApiError(Exception):
    """A request is answered with this error.

    Attributes:
        status: HTTP status.
        param: the field that is wrong.
        code: OpenAI's code for it.
        retry_after_s: for the Retry-After header.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI words it."""
        kinds = {404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Turn(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False


_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    messages: Annotated[list[_Turn], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=4)]
        | None
    ) = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a chat completion.

    Attributes:
        generation: what the engine gets.
        stream: answer in pieces.
        include_usage: a streamed answer ends with its usage.
    """

    generation: GenerationRequest
    stream: bool
    include_usage: bool


def parse_chat(data: bytes, *, model: str, max_tokens: int) -> ChatRequest:
    """Read the body of a request for a chat completion.

    Without a temperature the answer is greedy, so that a device repeats itself; a request with
    top_p, top_k or a seed wants sampling, and gets OpenAI's default temperature of 1.

    Args:
        data: JSON.
        model: the only model there is.
        max_tokens: length of an answer for which the request gives none.

    Raises:
        ApiError: what is wrong, and in which field.
    """
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError("the body is not a JSON object", code="invalid_json")
    _check_fields(fields, _Body, _WITHOUT_EFFECT, "")
    messages = fields.get("messages")
    for number, turn in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(turn, dict):
            _check_fields(turn, _Turn, _MESSAGE_WITHOUT_EFFECT, f"messages[{number}].")
    try:
        body = msgspec.convert(fields, _Body)
    except msgspec.ValidationError as error:
        raise _wrong_value(error) from None
    if body.model is not None and body.model != model:
        raise ApiError(
            f"the model {body.model!r} does not exist; this device has {model!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError("give max_tokens or max_completion_tokens, not both", param="max_tokens")
    temperature = body.temperature
    if temperature is None:
        sampling = (body.top_p, body.top_k, body.seed)
        temperature = 0.0 if all(option is None for option in sampling) else 1.0
    stop = body.stop or ()
    return ChatRequest(
        generation=GenerationRequest(
            prompt=tuple(_message(turn) for turn in body.messages),
            max_tokens=body.max_completion_tokens or body.max_tokens or max_tokens,
            temperature=temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            repetition_penalty=body.repetition_penalty or 1.0,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=body.seed,
        ),
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
    )


def _message(turn: _Turn) -> Message:
    content = turn.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    # OpenAI's newer name for the same role; chat templates know the older one.
    role = "system" if turn.role == "developer" else turn.role
    return Message(role=role, content=content)


def _check_fields(
    fields: dict[str, Any],
    known: type[msgspec.Struct],
    without_effect: dict[str, tuple[Any, ...]],
    where: str,
) -> None:
    for name, value in fields.items():
        if name in known.__struct_fields__ or (not where and name in _IGNORED) or value is None:
            continue
        if name not in without_effect:
            raise ApiError(
                f"{where}{name} is not supported", param=where + name, code="unsupported_parameter"
            )
        neutral = without_effect[name]
        if not any(type(value) is type(other) and value == other for other in neutral):
            shown = " or ".join(msgspec.json.encode(other).decode() for other in (*neutral, None))
            raise ApiError(
                f"{where}{name} is supported only as {shown}",
                param=where + name,
                code="unsupported_value",
            )


def _wrong_value(error: msgspec.ValidationError) -> ApiError:
    """msgspec's message ends with the place of the mistake: "... - at `$.stop[0]`"."""
    found = re.fullmatch(r"(?s)(.*?)(?: - at `\$\.?(.*)`)?", str(error))
    assert found is not None
    reason, place = found[1], found[2] or None
    if missing := re.search(r"missing required field `(\w+)`", reason):
        place = f"{place}.{missing[1]}" if place else missing[1]
        reason = "it is required"
    return ApiError(f"{place}: {reason}", param=place, code="invalid_value")


class Answer:
    """Words the answer to one request, whole or in pieces.

    Args:
        number: unique among the answers of this server.
        created: seconds since 1970.
        model: name of the model.
        fingerprint: changes with the release.
    """

    def __init__(self, *, number: str, created: int, model: str, fingerprint: str) -> None:
        self._head = {
            "id": f"chatcmpl-{number}",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """A `chat.completion` object."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": reason.value,
                }
            ],
            "usage": _usage(usage),
        }

    def opening(self) -> dict[str, Any]:
        """The first `chat.completion.chunk`: who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> dict[str, Any]:
        """A `chat.completion.chunk` with some text."""
        return self._chunk({"content": text}, None)

    def closing(self, reason: FinishReason) -> dict[str, Any]:
        """The `chat.completion.chunk` that says why the answer ended."""
        return self._chunk({}, reason)

    def totals(self, usage: Usage) -> dict[str, Any]:
        """The `chat.completion.chunk` after the last, with the usage and no choice."""
        return {**self._head, **_CHUNK, "choices": [], "usage": _usage(usage)}

    def _chunk(self, delta: dict[str, str], reason: FinishReason | None) -> dict[str, Any]:
        finish = reason.value if reason else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, **_CHUNK, "choices": [choice]}


_CHUNK = {"object": "chat.completion.chunk"}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def model_list(model: str, created: int) -> dict[str, Any]:
    """The answer to `GET /v1/models`."""
    entry = {"id": model, "object": "model", "created": created, "owned_by": "edgepack"}
    return {"object": "list", "data": [entry]}
