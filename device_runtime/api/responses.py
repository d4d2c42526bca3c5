"""Building of OpenAI's responses: the engine's chunks in, the API's objects out.

Chunks are pushed as they are generated. `push` returns the next objects for a client that streams;
`whole` returns the answer for a client that does not.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from device_runtime.api import response_types as objects
from device_runtime.api.answer_reader import AnswerEvent, AnswerReader, Thoughts
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, TokenLogprob, Usage
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text


class Answer(Protocol):
    """The answer to one request."""

    def push(self, chunk: GenerationChunk) -> Sequence[msgspec.Struct]:
        """Add the engine's next chunk, and return the objects that can be sent now."""
        ...

    def whole(self) -> msgspec.Struct:
        """Return the whole answer, once its last chunk is added."""
        ...


class _Choice:
    """One of the answers to a request, as far as it is generated."""

    def __init__(self) -> None:
        self.thoughts: list[str] = []
        self.text: list[str] = []
        self.calls: list[objects.AnswerCall] = []
        self.logprobs: list[TokenLogprob] = []
        self.reason: objects.Finish | None = None


class ChatAnswer:
    """`chat.completion` and `chat.completion.chunk` objects.

    Args:
        meta: fields that each object begins with; the id gets a prefix.
        parsed: the request.
        served: the model that answers.
    """

    def __init__(
        self, meta: objects.ResponseMeta, parsed: ParsedRequest, served: ServedModel
    ) -> None:
        self._meta = _begin(meta, "chatcmpl")
        self._parsed = parsed
        self._served = served
        self._choices: dict[int, _Choice] = {}
        self._readers: dict[int, AnswerReader] = {}
        self._usage: objects.UsageObject | None = None

    def push(self, chunk: GenerationChunk) -> list[objects.ChatCompletionChunk]:
        """See `Answer.push`."""
        pieces = []
        choice = self._choices.get(chunk.index)
        if choice is None:
            choice = self._choices[chunk.index] = _Choice()
            self._readers[chunk.index] = AnswerReader(self._parsed.tools, self._served.dialect)
            pieces.append(self._piece(chunk.index, objects.Delta(role="assistant", content="")))
        choice.logprobs += chunk.logprobs
        deltas = [_delta(choice, event) for event in self._readers[chunk.index].read(chunk)]
        if chunk.logprobs and not deltas:
            # The token is known, but its text is not yet.
            deltas = [objects.Delta(content="")]
        logprobs = chunk.logprobs
        for delta in deltas:
            pieces.append(self._piece(chunk.index, delta, logprobs=self._logprobs(logprobs)))
            logprobs = ()
        if chunk.finish_reason is not None:
            choice.reason = _finish(chunk.finish_reason, choice)
            pieces.append(self._piece(chunk.index, objects.Delta(), choice.reason))
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
            if self._parsed.include_usage:
                pieces.append(self._object([], self._usage))
        return pieces

    def whole(self) -> objects.ChatCompletion:
        """See `Answer.whole`."""
        assert self._usage is not None
        return objects.ChatCompletion(
            **self._meta,
            choices=[self._whole_choice(index, choice) for index, choice in self._choices.items()],
            usage=self._usage,
        )

    def _whole_choice(self, index: int, choice: _Choice) -> objects.ChatChoice:
        assert choice.reason is not None
        text = "".join(choice.text)
        message = objects.AnswerMessage(
            content=text or (None if choice.calls else ""),
            refusal=None,
            reasoning_content="".join(choice.thoughts) or UNSET,
            tool_calls=choice.calls or UNSET,
        )
        return objects.ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(choice.logprobs),
            finish_reason=choice.reason,
        )

    def _piece(
        self,
        index: int,
        delta: objects.Delta,
        reason: objects.Finish | None = None,
        logprobs: objects.ChatLogprobs | None = None,
    ) -> objects.ChatCompletionChunk:
        choice = objects.ChunkChoice(
            index=index, delta=delta, logprobs=logprobs, finish_reason=reason
        )
        return self._object([choice])

    def _object(
        self, choices: list[objects.ChunkChoice], usage: objects.UsageObject | None = None
    ) -> objects.ChatCompletionChunk:
        absent = None if self._parsed.include_usage else UNSET
        return objects.ChatCompletionChunk(**self._meta, choices=choices, usage=usage or absent)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> objects.ChatLogprobs | None:
        if self._parsed.generation.logprobs is None:
            return None
        return objects.ChatLogprobs(content=token_logprobs(tokens), refusal=None)


class CompletionAnswer:
    """`text_completion` objects, whose chunks and whole answers have the same form.

    Args:
        meta: fields that each object begins with; the id gets a prefix.
        parsed: the request.
    """

    def __init__(
        self, meta: objects.ResponseMeta, parsed: ParsedRequest, served: ServedModel
    ) -> None:
        self._meta = _begin(meta, "cmpl")
        self._parsed = parsed
        self._choices: dict[int, _Choice] = {}
        self._usage: objects.UsageObject | None = None

    def push(self, chunk: GenerationChunk) -> list[objects.Completion]:
        """See `Answer.push`."""
        pieces = []
        text = chunk.text
        choice = self._choices.get(chunk.index)
        if choice is None:
            choice = self._choices[chunk.index] = _Choice()
        offset = sum(token.characters for token in choice.logprobs)
        choice.text.append(text)
        choice.logprobs += chunk.logprobs
        if chunk.finish_reason is not None:
            choice.reason = _finish(chunk.finish_reason, choice)
        if text or chunk.logprobs or choice.reason is not None:
            shown = objects.CompletionChoice(
                index=chunk.index,
                text=text,
                logprobs=self._logprobs(chunk.logprobs, offset),
                finish_reason=choice.reason,
            )
            pieces.append(self._object([shown]))
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
            if self._parsed.include_usage:
                pieces.append(self._object([], self._usage))
        return pieces

    def whole(self) -> objects.Completion:
        """See `Answer.whole`."""
        assert self._usage is not None
        choices = [
            objects.CompletionChoice(
                index=index,
                text="".join(choice.text),
                logprobs=self._logprobs(choice.logprobs, 0),
                finish_reason=choice.reason,
            )
            for index, choice in self._choices.items()
        ]
        return self._object(choices, self._usage)

    def _object(
        self, choices: list[objects.CompletionChoice], usage: objects.UsageObject | None = None
    ) -> objects.Completion:
        absent = None if self._parsed.include_usage else UNSET
        return objects.Completion(**self._meta, choices=choices, usage=usage or absent)

    def _logprobs(
        self, tokens: Sequence[TokenLogprob], offset: int
    ) -> objects.CompletionLogprobs | None:
        """Convert log probabilities to the older form: one list of all tokens per property."""
        if self._parsed.generation.logprobs is None:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += token.characters
        return objects.CompletionLogprobs(
            tokens=[_shown(token.data) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[_top(token) for token in tokens],
            text_offset=offsets,
        )


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[objects.TokenLogprobs]:
    """Convert log probabilities to objects of the API."""
    return [
        objects.TokenLogprobs(
            token=_shown(token.data),
            logprob=_known(token.logprob),
            bytes=list(token.data),
            top_logprobs=[
                objects.Logprob(token=_shown(data), logprob=logprob, bytes=list(data))
                for data, logprob in token.top
            ],
        )
        for token in tokens
    ]


def _begin(meta: objects.ResponseMeta, kind: str) -> dict[str, Any]:
    """Return the fields that each object of a response begins with."""
    return msgspec.structs.asdict(meta) | {"id": f"{kind}-{meta.id}"}


def _delta(choice: _Choice, event: AnswerEvent) -> objects.Delta:
    """Add an event to an answer, and return it as the API sends it."""
    match event:
        case Thoughts(text=text):
            choice.thoughts.append(text)
            return objects.Delta(reasoning_content=text)
        case Text(text=text):
            choice.text.append(text)
            return objects.Delta(content=text)
        case CallStarted(index=index, id=call_id, name=name):
            choice.calls.append(objects.AnswerCall(call_id, objects.AnswerFunction(name, "")))
            function = objects.DeltaFunction(name=name, arguments="")
            call = objects.DeltaCall(index=index, id=call_id, type="function", function=function)
        case CallArguments(index=index, delta=arguments):
            choice.calls[index].function.arguments += arguments
            call = objects.DeltaCall(
                index=index, function=objects.DeltaFunction(arguments=arguments)
            )
    return objects.Delta(tool_calls=[call])


def _finish(reason: FinishReason, choice: _Choice) -> objects.Finish:
    """Return OpenAI's finish reason; that of a cancelled answer is never sent."""
    if reason is not FinishReason.STOP:
        return "length"
    return "tool_calls" if choice.calls else "stop"


def _known(logprob: float | None) -> float:
    assert logprob is not None, "only the first token of a prompt has none"
    return logprob


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """Return the most likely tokens; of those that look alike, as parts of characters, the best."""
    if token.logprob is None:
        return None
    top: dict[str, float] = {}
    for data, logprob in token.top:
        top.setdefault(_shown(data), logprob)
    return top


def _shown(data: bytes) -> str:
    return data.decode(errors="replace")


def _usage(usage: Usage) -> objects.UsageObject:
    return objects.UsageObject(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=objects.TokensDetails(usage.cached_tokens),
        completion_tokens_details=objects.CompletionTokensDetails(usage.reasoning_tokens),
    )
