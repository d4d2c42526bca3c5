"""Building of Ollama's responses: the engine's chunks in, the API's objects out."""

import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from device_runtime.api.answer_reader import AnswerReader, Thoughts
from device_runtime.api.ollama import response_types as objects
from device_runtime.api.ollama.requests import OllamaRequest
from device_runtime.api.response_types import ResponseMeta, TokenLogprobs
from device_runtime.api.responses import token_logprobs
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text


class _Part:
    """A part of an answer, or the whole of it."""

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.calls: list[objects.OllamaCall] = []
        self.logprobs: list[TokenLogprobs] = []


class OllamaAnswer(ABC):
    """An answer in Ollama's form: each part is an object like the whole.

    Args:
        meta: fields of the response.
        parsed: the request.
        served: the model that answers.
    """

    def __init__(self, meta: ResponseMeta, parsed: OllamaRequest, served: ServedModel) -> None:
        self._started = time.monotonic_ns()
        self._model = meta.model
        self._parsed = parsed
        self._reader = AnswerReader(parsed.tools, served.dialect)
        self._call: tuple[CallStarted, list[str]] | None = None
        self._calls = 0
        self._all = _Part()
        self._done = objects.Done()

    @abstractmethod
    def _object(self, part: _Part, fields: dict[str, Any]) -> objects.OllamaAnswerObject:
        """Return a part as the API sends it; `fields` has all fields but those of its text."""

    def push(self, chunk: GenerationChunk) -> list[objects.OllamaAnswerObject]:
        """See `Answer.push`."""
        part = _Part()
        part.logprobs = token_logprobs(chunk.logprobs)
        for event in self._reader.read(chunk):
            match event:
                case Thoughts(text=text):
                    part.thoughts += text
                case Text(text=text):
                    part.text += text
                case CallStarted():
                    self._end_call(part)
                    self._call = event, []
                case CallArguments(delta=text):
                    assert self._call is not None
                    self._call[1].append(text)
        if chunk.finish_reason is not None:
            self._end_call(part)
        self._all.text += part.text
        self._all.thoughts += part.thoughts
        self._all.calls += part.calls
        self._all.logprobs += part.logprobs
        pieces = []
        if part.text or part.thoughts or part.calls or part.logprobs:
            pieces.append(self._written(part, objects.Done()))
        if chunk.finish_reason is not None:
            assert chunk.usage is not None
            self._done = self._end(chunk.finish_reason, chunk.usage)
            pieces.append(self._written(_Part(), self._done))
        return pieces

    def whole(self) -> objects.OllamaAnswerObject:
        """See `Answer.whole`."""
        return self._written(self._all, self._done)

    def _end_call(self, part: _Part) -> None:
        """Add the call that has ended to a part; one that was cut off is left out."""
        if self._call is None:
            return
        call, arguments = self._call
        self._call = None
        try:
            decoded = msgspec.json.decode("".join(arguments), type=dict[str, Any])
        except msgspec.DecodeError:
            return
        function = objects.OllamaFunction(self._calls, call.name, decoded)
        part.calls.append(objects.OllamaCall(call.id, function))
        self._calls += 1

    def _end(self, reason: FinishReason, usage: Usage) -> objects.Done:
        if self._parsed.done_reason is not None:
            return objects.Done(done_reason=self._parsed.done_reason)
        return objects.Done(
            done_reason="stop" if reason is FinishReason.STOP else "length",
            total_duration=time.monotonic_ns() - self._started,
            load_duration=0,
            prompt_eval_count=usage.prompt_tokens,
            prompt_eval_duration=int(usage.first_token_s * 1e9),
            eval_count=usage.completion_tokens,
            eval_duration=int(usage.decode_s * 1e9),
        )

    def _written(self, part: _Part, done: objects.Done) -> objects.OllamaAnswerObject:
        fields = msgspec.structs.asdict(done) | {
            "model": self._model,
            "created_at": datetime.now(UTC),
            "done": done.done_reason is not UNSET,
            "logprobs": part.logprobs or UNSET,
        }
        return self._object(part, fields)


class OllamaChatAnswer(OllamaAnswer):
    """The answer to a chat; arguments as of `OllamaAnswer`."""

    def _object(self, part: _Part, fields: dict[str, Any]) -> objects.OllamaChatResponse:
        message = objects.OllamaMessage(
            content=part.text,
            thinking=part.thoughts or UNSET,
            tool_calls=part.calls or UNSET,
        )
        return objects.OllamaChatResponse(message=message, **fields)


class OllamaGenerateAnswer(OllamaAnswer):
    """The answer to a prompt; arguments as of `OllamaAnswer`."""

    def _object(self, part: _Part, fields: dict[str, Any]) -> objects.OllamaGenerateResponse:
        return objects.OllamaGenerateResponse(
            response=part.text, thinking=part.thoughts or UNSET, **fields
        )
