"""The events of a streamed response, in the order in which a client gets them.

`response.created`, `response.in_progress`; for each item of the output
`response.output_item.added`, its text or arguments, and `response.output_item.done`; at the end
`response.completed`, `response.incomplete` or `response.failed`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from device_runtime.api.openai_responses.request_types import ReasoningText, SummaryText
from device_runtime.api.openai_responses.response_types import (
    AnswerText,
    OutputItem,
    ResponseObject,
)
from device_runtime.api.response_types import TokenLogprobs


class Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """The field that all events have."""

    # Not frozen: the answer numbers its events when it sends them.
    sequence_number: Annotated[int, Meta(ge=0, description="Number of the event, from 0.")] = 0


class _ResponseEvent(Event, kw_only=True):
    response: ResponseObject


class CreatedEvent(_ResponseEvent, tag="response.created"):
    """The request is accepted."""


class InProgressEvent(_ResponseEvent, tag="response.in_progress"):
    """The model works on it."""


class CompletedEvent(_ResponseEvent, tag="response.completed"):
    """The model ended its answer."""


class IncompleteEvent(_ResponseEvent, tag="response.incomplete"):
    """A limit ended the answer."""


class FailedEvent(_ResponseEvent, tag="response.failed"):
    """An error ended the answer."""


class _ItemEvent(Event, kw_only=True):
    output_index: Annotated[int, Meta(ge=0, description="Index of the item in the output.")]


class ItemAddedEvent(_ItemEvent, kw_only=True, tag="response.output_item.added"):
    """An item begins; it is still empty."""

    item: OutputItem


class ItemDoneEvent(_ItemEvent, kw_only=True, tag="response.output_item.done"):
    """An item is whole."""

    item: OutputItem


class _InItemEvent(_ItemEvent, kw_only=True):
    item_id: str


class _InContentEvent(_InItemEvent, kw_only=True):
    content_index: int = 0


class _InSummaryEvent(_InItemEvent, kw_only=True):
    summary_index: int = 0


class PartAddedEvent(_InContentEvent, kw_only=True, tag="response.content_part.added"):
    """A part of an item's content begins."""

    part: AnswerText | ReasoningText


class PartDoneEvent(_InContentEvent, kw_only=True, tag="response.content_part.done"):
    """A part of an item's content is whole."""

    part: AnswerText | ReasoningText


class TextDeltaEvent(_InContentEvent, kw_only=True, tag="response.output_text.delta"):
    """The next piece of a message's text."""

    delta: str
    logprobs: list[TokenLogprobs]


class TextDoneEvent(_InContentEvent, kw_only=True, tag="response.output_text.done"):
    """A message's text is whole."""

    text: str
    logprobs: list[TokenLogprobs]


class ReasoningDeltaEvent(_InContentEvent, kw_only=True, tag="response.reasoning_text.delta"):
    """The next piece of thoughts."""

    delta: str


class ReasoningDoneEvent(_InContentEvent, kw_only=True, tag="response.reasoning_text.done"):
    """Thoughts are whole."""

    text: str


class SummaryPartAddedEvent(
    _InSummaryEvent, kw_only=True, tag="response.reasoning_summary_part.added"
):
    """Thoughts begin, where the request asks for a summary."""

    part: SummaryText


class SummaryPartDoneEvent(
    _InSummaryEvent, kw_only=True, tag="response.reasoning_summary_part.done"
):
    """They are whole."""

    part: SummaryText


class SummaryDeltaEvent(_InSummaryEvent, kw_only=True, tag="response.reasoning_summary_text.delta"):
    """Their next piece."""

    delta: str


class SummaryDoneEvent(_InSummaryEvent, kw_only=True, tag="response.reasoning_summary_text.done"):
    """Their text is whole."""

    text: str


class ArgumentsDeltaEvent(_InItemEvent, kw_only=True, tag="response.function_call_arguments.delta"):
    """The next piece of a call's arguments."""

    delta: str


class ArgumentsDoneEvent(_InItemEvent, kw_only=True, tag="response.function_call_arguments.done"):
    """A call's arguments are whole."""

    arguments: str


EVENTS: tuple[type[Event], ...] = (
    CreatedEvent,
    InProgressEvent,
    ItemAddedEvent,
    PartAddedEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    PartDoneEvent,
    SummaryPartAddedEvent,
    SummaryDeltaEvent,
    SummaryDoneEvent,
    SummaryPartDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemDoneEvent,
    CompletedEvent,
    IncompleteEvent,
    FailedEvent,
)
"""All events, in the order in which they can come first."""
