"""OpenAI's answers, written: what the engine says in, JSON out. Pure functions.

An answer is pushed in as it comes. What `push` returns is for a client that wants it in pieces;
`whole` is for one that does not.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from device_runtime.engine import FinishReason, GenerationChunk, TokenLogprob, Usage
from device_runtime.openai_requests import Asked
from device_runtime.tool_calls import CallArguments, CallStarted, Text, ToolCallParser


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all objects of one answer begin with.

    Attributes:
        number: unique among the answers of this server.
        created: seconds since 1970.
        model: name of the model, as the request has it.
        fingerprint: changes with the release.
    """

    number: str
    created: int
    model: str
    fingerprint: str


class Answer(Protocol):
    """The answer to one request."""

    def push(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        """Take the engine's next chunk; returns the objects that can be sent now."""
        ...

    def whole(self) -> dict[str, Any]:
        """All of it, once the last chunk is in."""
        ...


class _Choice:
    """One of the answers to a request."""

    def __init__(self, parser: ToolCallParser | None) -> None:
        self.parser = parser
        self.text: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[TokenLogprob] = []
        self.reason: FinishReason | None = None


class ChatAnswer:
    """`chat.completion` and `chat.completion.chunk` objects.

    Args:
        head: what they begin with.
        asked: the request.
        parser: makes what finds tool calls in an answer.
    """

    def __init__(self, head: Head, asked: Asked, parser: Callable[[], ToolCallParser]) -> None:
        self._head = {
            "id": f"chatcmpl-{head.number}",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._asked = asked
        self._parser = parser
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def push(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        """See `Answer.push`."""
        pieces = []
        choice = self._choices.get(chunk.index)
        if choice is None:
            choice = _Choice(self._parser() if self._asked.tools.tools else None)
            self._choices[chunk.index] = choice
            pieces.append(self._piece(chunk.index, {"role": "assistant", "content": ""}))
        choice.logprobs += chunk.logprobs
        deltas = self._deltas(choice, chunk)
        if chunk.logprobs and not deltas:
            # The token is known, its text is not yet.
            deltas = [{"content": ""}]
        logprobs = chunk.logprobs
        for delta in deltas:
            pieces.append(self._piece(chunk.index, delta, logprobs=self._logprobs(logprobs)))
            logprobs = ()
        if chunk.finish_reason is not None:
            called = choice.calls and chunk.finish_reason is FinishReason.STOP
            choice.reason = FinishReason.TOOL_CALLS if called else chunk.finish_reason
            pieces.append(self._piece(chunk.index, {}, choice.reason))
        if chunk.usage is not None:
            self._usage = chunk.usage
            if self._asked.include_usage:
                head = {**self._head, "object": "chat.completion.chunk"}
                pieces.append({**head, "choices": [], "usage": _usage(chunk.usage)})
        return pieces

    def whole(self) -> dict[str, Any]:
        """See `Answer.whole`."""
        assert self._usage is not None
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": _message(choice),
                    "logprobs": self._logprobs(choice.logprobs),
                    "finish_reason": choice.reason,
                }
                for index, choice in self._choices.items()
            ],
            "usage": _usage(self._usage),
        }

    def _deltas(self, choice: _Choice, chunk: GenerationChunk) -> list[dict[str, Any]]:
        if choice.parser is None:
            choice.text.append(chunk.text)
            return [{"content": chunk.text}] if chunk.text else []
        events = choice.parser.push(chunk.text)
        if chunk.finish_reason is not None:
            events += choice.parser.finish()
        deltas: list[dict[str, Any]] = []
        for event in events:
            match event:
                case Text(text=text):
                    choice.text.append(text)
                    deltas.append({"content": text})
                case CallStarted(index=index, id=number, name=name):
                    choice.calls.append(_call(number, name))
                    deltas.append({"tool_calls": [{"index": index, **_call(number, name)}]})
                case CallArguments(index=index, delta=delta):
                    choice.calls[index]["function"]["arguments"] += delta
                    function = {"arguments": delta}
                    deltas.append({"tool_calls": [{"index": index, "function": function}]})
        return deltas

    def _piece(
        self,
        index: int,
        delta: dict[str, Any],
        reason: FinishReason | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        piece = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return piece | {"usage": None} if self._asked.include_usage else piece

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._asked.generation.logprobs is None:
            return None
        shown = [
            {
                **_token(token.data, token.logprob),
                "top_logprobs": [_token(data, logprob) for data, logprob in token.top],
            }
            for token in tokens
        ]
        return {"content": shown, "refusal": None}


class CompletionAnswer:
    """`text_completion` objects, which look the same in pieces and whole.

    Args:
        head: what they begin with.
        asked: the request.
    """

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = {
            "id": f"cmpl-{head.number}",
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._asked = asked
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def push(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        """See `Answer.push`."""
        pieces = []
        text = chunk.text
        choice = self._choices.get(chunk.index)
        if choice is None:
            choice = self._choices[chunk.index] = _Choice(None)
            text = self._asked.echo + text
        offset = sum(_characters(token.data) for token in choice.logprobs)
        choice.text.append(text)
        choice.logprobs += chunk.logprobs
        choice.reason = chunk.finish_reason
        if text or chunk.logprobs or chunk.finish_reason is not None:
            logprobs = self._logprobs(chunk.logprobs, offset)
            shown = _completion_choice(chunk.index, text, logprobs, chunk.finish_reason)
            piece = {**self._head, "choices": [shown]}
            pieces.append(piece | {"usage": None} if self._asked.include_usage else piece)
        if chunk.usage is not None:
            self._usage = chunk.usage
            if self._asked.include_usage:
                pieces.append({**self._head, "choices": [], "usage": _usage(chunk.usage)})
        return pieces

    def whole(self) -> dict[str, Any]:
        """See `Answer.whole`."""
        assert self._usage is not None
        return {
            **self._head,
            "choices": [
                _completion_choice(
                    index,
                    "".join(choice.text),
                    self._logprobs(choice.logprobs, 0),
                    choice.reason,
                )
                for index, choice in self._choices.items()
            ],
            "usage": _usage(self._usage),
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        """The form of before chat: one list for each property, of all tokens."""
        if self._asked.generation.logprobs is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += _characters(token.data)
        return {
            "tokens": [_shown(token.data) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {_shown(data): logprob for data, logprob in token.top} for token in tokens
            ],
            "text_offset": offsets,
        }


def _completion_choice(
    index: int, text: str, logprobs: dict[str, Any] | None, reason: FinishReason | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _call(number: str, name: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": ""}}


def _message(choice: _Choice) -> dict[str, Any]:
    text = "".join(choice.text)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.calls:
        message |= {"content": text or None, "tool_calls": choice.calls}
    return message


def _token(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _shown(data), "logprob": logprob, "bytes": list(data)}


def _shown(data: bytes) -> str:
    return data.decode(errors="replace")


def _characters(data: bytes) -> int:
    """How many characters begin in these bytes of UTF-8."""
    return sum(byte & 0xC0 != 0x80 for byte in data)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def model_list(models: tuple[str, ...], created: int) -> dict[str, Any]:
    """The answer to `GET /v1/models`."""
    return {"object": "list", "data": [model_entry(model, created) for model in models]}


def model_entry(model: str, created: int) -> dict[str, Any]:
    """A `model` object."""
    return {"id": model, "object": "model", "created": created, "owned_by": "edgepack"}
