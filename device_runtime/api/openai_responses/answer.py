"""Building of responses: the engine's chunks in, a response and its events out."""

import time
from collections.abc import Callable
from typing import Any

from device_runtime.api.answer_reader import AnswerEvent, AnswerReader, Thoughts
from device_runtime.api.errors import ApiError
from device_runtime.api.openai_responses import events
from device_runtime.api.openai_responses.events import Event
from device_runtime.api.openai_responses.output import (
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    OpenSummary,
)
from device_runtime.api.openai_responses.request_types import (
    ReasoningOptions,
    ResponsesBody,
    TextFormat,
    TextOptions,
)
from device_runtime.api.openai_responses.requests import ResponseRequest
from device_runtime.api.openai_responses.response_types import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputItem,
    OutputTokensDetails,
    ResponseError,
    ResponseObject,
    ResponseUsage,
    Status,
    TokenCount,
)
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.response_types import ResponseMeta, TokenLogprobs
from device_runtime.api.responses import token_logprobs
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text


class ResponseAnswer:
    """A response, and its events. Implements `Answer`.

    Args:
        meta: id, time and model of the response.
        request: the request.
        served: the model that answers.
        is_kept: whether the response will be kept.
        keep: called with the response once it is whole.
    """

    def __init__(
        self,
        meta: ResponseMeta,
        request: ResponseRequest,
        served: ServedModel,
        *,
        is_kept: bool,
        keep: Callable[[ResponseObject], None],
    ) -> None:
        self._meta = meta
        self._fields = _fields(meta, request, is_kept=is_kept)
        self._keep = keep
        self._reader = AnswerReader(request.parsed.tools, served.dialect)
        self._thoughts = OpenSummary if _wants_summary(request.body) else OpenReasoning
        self._output: list[OutputItem] = []
        self._open: OpenItem | None = None
        # Of tokens whose text has not come yet.
        self._logprobs: list[TokenLogprobs] = []
        self._sent = 0
        self._response = self._object("in_progress")

    def push(self, chunk: GenerationChunk) -> list[Event]:
        """See `Answer.push`."""
        pieces: list[Event] = []
        if not self._sent:
            pieces.append(events.CreatedEvent(response=self._response))
            pieces.append(events.InProgressEvent(response=self._response))
        self._logprobs += token_logprobs(chunk.logprobs)
        for event in self._reader.read(chunk):
            pieces += self._item_events(event)
        if chunk.usage is not None:
            assert chunk.finish_reason is not None
            pieces += self._end(chunk.finish_reason, chunk.usage)
        return self._numbered(pieces)

    def whole(self) -> ResponseObject:
        """See `Answer.whole`."""
        return self._response

    def failed(self, error: ApiError) -> Event:
        """Return the event for an error that ends the answer."""
        self._close("incomplete")
        reason = ResponseError("server_error", str(error))
        return self._numbered([events.FailedEvent(response=self._object("failed", error=reason))])[
            0
        ]

    def _item_events(self, event: AnswerEvent) -> list[Event]:
        match event:
            case Thoughts(text=text):
                self._logprobs = []
                return [*self._within(self._thoughts), self._add(text)]
            case Text(text=text):
                logprobs, self._logprobs = self._logprobs, []
                return [*self._within(OpenMessage), self._add(text, logprobs)]
            case CallStarted(id=call_id, name=name):
                index = len(self._output) + (self._open is not None)
                return self._begin(OpenCall(index, self._meta.id, call_id=call_id, name=name))
            case CallArguments(delta=arguments):
                self._logprobs = []
                return [self._add(arguments)]

    def _within(self, kind: type[OpenItem]) -> list[Event]:
        """Begin an item of this kind, unless one is open."""
        if isinstance(self._open, kind):
            return []
        return self._begin(kind(len(self._output) + (self._open is not None), self._meta.id))

    def _begin(self, item: OpenItem) -> list[Event]:
        ended = self._close("completed")
        self._open = item
        return [*ended, *item.begin()]

    def _add(self, text: str, logprobs: list[TokenLogprobs] | None = None) -> Event:
        assert self._open is not None
        return self._open.add(text, logprobs or ())

    def _close(self, status: ItemStatus) -> list[Event]:
        if self._open is None:
            return []
        self._output.append(self._open.item(status))
        ended, self._open = self._open.end(status), None
        return ended

    def _end(self, reason: FinishReason, usage: Usage) -> list[Event]:
        # An answer without any text is an empty message.
        pieces = [] if self._output or self._open else self._within(OpenMessage)
        is_whole = reason is FinishReason.STOP
        pieces += self._close("completed" if is_whole else "incomplete")
        self._response = self._object("completed" if is_whole else "incomplete", usage=usage)
        if reason is not FinishReason.CANCELLED:
            self._keep(self._response)
        ended = events.CompletedEvent if is_whole else events.IncompleteEvent
        return [*pieces, ended(response=self._response)]

    def _object(
        self, status: Status, *, usage: Usage | None = None, error: ResponseError | None = None
    ) -> ResponseObject:
        return ResponseObject(
            **self._fields,
            status=status,
            completed_at=int(time.time()) if usage is not None else None,
            error=error,
            incomplete_details=(
                IncompleteDetails("max_output_tokens") if status == "incomplete" else None
            ),
            output=list(self._output),
            usage=None if usage is None else _usage(usage),
        )

    def _numbered(self, pieces: list[Event]) -> list[Event]:
        for number, piece in enumerate(pieces, self._sent):
            piece.sequence_number = number
        self._sent += len(pieces)
        return pieces


class CountAnswer:
    """The number of a prompt's tokens. Implements `Answer`."""

    def __init__(self, meta: ResponseMeta, parsed: ParsedRequest, served: ServedModel) -> None:
        self._tokens = 0

    def push(self, chunk: GenerationChunk) -> list[Event]:
        """See `Answer.push`."""
        self._tokens = self._tokens or chunk.prompt_tokens
        return []

    def whole(self) -> TokenCount:
        """See `Answer.whole`."""
        return TokenCount(self._tokens)


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _wants_summary(body: ResponsesBody) -> bool:
    return body.reasoning is not None and body.reasoning.summary is not None


def _fields(meta: ResponseMeta, request: ResponseRequest, *, is_kept: bool) -> dict[str, Any]:
    """Return the fields of a response that do not change: those of the request, mostly."""
    body, generation = request.body, request.parsed.generation
    text = body.text or TextOptions()
    return {
        "id": f"resp_{meta.id}",
        "created_at": meta.created,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": meta.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": body.reasoning or ReasoningOptions(),
        "store": is_kept,
        "temperature": generation.temperature,
        "text": TextOptions(text.format or TextFormat(), text.verbosity or "medium"),
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": generation.top_p,
    }
