"""The items of an answer while they are generated: each has events for its pieces and its ends."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from device_runtime.api.openai_responses import events
from device_runtime.api.openai_responses.events import Event
from device_runtime.api.openai_responses.request_types import ReasoningText, SummaryText
from device_runtime.api.openai_responses.response_types import (
    AnswerText,
    CallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    ReasoningItem,
)
from device_runtime.api.response_types import TokenLogprobs


class OpenItem(ABC):
    """An item that is being generated.

    Args:
        index: index of the item in the output.
        response_id: unique part of the response's id.
    """

    prefix = ""
    """Start of its id."""

    def __init__(self, index: int, response_id: str) -> None:
        self._text = ""
        self._at = {"output_index": index}
        self._id = f"{self.prefix}_{response_id}_{index}"
        self._in: dict[str, Any] = {"item_id": self._id, **self._at}

    def begin(self) -> list[Event]:
        """Return the events that announce it."""
        return [events.ItemAddedEvent(**self._at, item=self.item("in_progress")), *self._begin()]

    def add(self, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> Event:
        """Add the next piece of its text, and return the event with it."""
        self._text += text
        return self._delta(text, logprobs)

    def end(self, status: ItemStatus) -> list[Event]:
        """Return the events that end it."""
        return [*self._end(), events.ItemDoneEvent(**self._at, item=self.item(status))]

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """Return the item as far as it is generated; the text of one in progress is left out."""

    @abstractmethod
    def _begin(self) -> list[Event]: ...

    @abstractmethod
    def _delta(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Event: ...

    @abstractmethod
    def _end(self) -> list[Event]: ...


class OpenMessage(OpenItem):
    """A message."""

    prefix = "msg"

    def __init__(self, index: int, response_id: str) -> None:
        super().__init__(index, response_id)
        self._logprobs: list[TokenLogprobs] = []

    def item(self, status: ItemStatus) -> MessageItem:
        """See `OpenItem.item`."""
        content = [] if status == "in_progress" else [self._part()]
        return MessageItem(id=self._id, status=status, content=content)

    def _part(self) -> AnswerText:
        return AnswerText(self._text, logprobs=self._logprobs)

    def _begin(self) -> list[Event]:
        return [events.PartAddedEvent(**self._in, part=AnswerText(""))]

    def _delta(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Event:
        self._logprobs += logprobs
        return events.TextDeltaEvent(**self._in, delta=text, logprobs=list(logprobs))

    def _end(self) -> list[Event]:
        return [
            events.TextDoneEvent(**self._in, text=self._text, logprobs=self._logprobs),
            events.PartDoneEvent(**self._in, part=self._part()),
        ]


class OpenCall(OpenItem):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, index: int, response_id: str, *, call_id: str, name: str) -> None:
        super().__init__(index, response_id)
        self._call_id = call_id
        self._name = name

    def item(self, status: ItemStatus) -> CallItem:
        """See `OpenItem.item`."""
        return CallItem(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments=self._text,
        )

    def _begin(self) -> list[Event]:
        return []

    def _delta(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Event:
        return events.ArgumentsDeltaEvent(**self._in, delta=text)

    def _end(self) -> list[Event]:
        return [events.ArgumentsDoneEvent(**self._in, arguments=self._text)]


class OpenReasoning(OpenItem):
    """Thoughts, in the item's content."""

    prefix = "rs"

    def item(self, status: ItemStatus) -> ReasoningItem:
        """See `OpenItem.item`."""
        content = [] if status == "in_progress" else [ReasoningText(self._text)]
        return ReasoningItem(id=self._id, status=status, content=content)

    def _begin(self) -> list[Event]:
        return [events.PartAddedEvent(**self._in, part=ReasoningText(""))]

    def _delta(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Event:
        return events.ReasoningDeltaEvent(**self._in, delta=text)

    def _end(self) -> list[Event]:
        return [
            events.ReasoningDoneEvent(**self._in, text=self._text),
            events.PartDoneEvent(**self._in, part=ReasoningText(self._text)),
        ]


class OpenSummary(OpenItem):
    """Thoughts, in the item's summary."""

    prefix = "rs"

    def item(self, status: ItemStatus) -> ReasoningItem:
        """See `OpenItem.item`."""
        summary = [] if status == "in_progress" else [SummaryText(self._text)]
        return ReasoningItem(id=self._id, status=status, summary=summary)

    def _begin(self) -> list[Event]:
        return [events.SummaryPartAddedEvent(**self._in, part=SummaryText(""))]

    def _delta(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Event:
        return events.SummaryDeltaEvent(**self._in, delta=text)

    def _end(self) -> list[Event]:
        return [
            events.SummaryDoneEvent(**self._in, text=self._text),
            events.SummaryPartDoneEvent(**self._in, part=SummaryText(self._text)),
        ]
