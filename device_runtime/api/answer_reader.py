"""A reader of one answer: its chunks in, thoughts, text and calls of tools out."""

import msgspec

from device_runtime.inference.engine import GenerationChunk
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text, ToolCallParser
from device_runtime.tools.definition import Tools
from device_runtime.tools.dialect import Dialect


class Thoughts(msgspec.Struct, frozen=True):
    """The next part of the model's thoughts, which come before its answer."""

    text: str


AnswerEvent = Thoughts | Text | CallStarted | CallArguments


class AnswerReader:
    """Reads one answer, whichever API it is written for.

    Args:
        tools: the tools that the model can call.
        dialect: dialect of the model.
    """

    def __init__(self, tools: Tools, dialect: Dialect) -> None:
        names = [tool.name for tool in tools.tools]
        self._calls = (
            ToolCallParser(dialect, names, guided=True, formed=tools.formed) if names else None
        )

    def read(self, chunk: GenerationChunk) -> list[AnswerEvent]:
        """Return the events that are certain with this chunk."""
        events: list[AnswerEvent] = [Thoughts(chunk.thoughts)] if chunk.thoughts else []
        if self._calls is None:
            return [*events, Text(chunk.text)] if chunk.text else events
        events += self._calls.push(chunk.text)
        if chunk.finish_reason is not None:
            events += self._calls.finish()
        return events
