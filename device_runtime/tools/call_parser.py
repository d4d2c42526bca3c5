"""An incremental parser for the tool calls in a model's answer."""

import re
import secrets
from collections.abc import Callable, Iterable

import msgspec

from device_runtime.inference.stop_strings import overlap
from device_runtime.tools.dialect import Dialect
from device_runtime.tools.json_calls import SPACE, JsonEnd, read_calls
from device_runtime.tools.syntax import PYTHON_TAG

_NAME_FIELDS = 160
"""An upper bound on the characters of `name[CALL_ID]id[ARGS]`."""

_NAMED = re.compile(r"([a-zA-Z0-9_-]{1,64})(?:\[CALL_ID\][a-zA-Z0-9]{1,64})?\[ARGS\]")


class Text(msgspec.Struct, frozen=True):
    """Text outside of calls."""

    text: str


class CallStarted(msgspec.Struct, frozen=True):
    """The start of a call; calls are numbered from 0."""

    index: int
    id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """The next part of the JSON text of a call's arguments."""

    index: int
    delta: str


Event = Text | CallStarted | CallArguments


def new_call_id() -> str:
    """Return a random call id in OpenAI's format."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Separates text from calls in one answer.

    The events do not depend on how the answer is split into chunks. A call of an unknown tool, or
    with invalid JSON, becomes text. White space around calls is dropped.

    Args:
        dialect: dialect of the model.
        names: names of the tools.
        guided: whether the answer follows a grammar of `tools.grammar`: arguments are then emitted
            as they arrive. Otherwise a call is emitted once it is complete and valid.
        formed: whether an answer without calls has a form of its own, such as JSON: calls are then
            the whole answer, and a marker within it is a part of its text.
        new_id: creates the id of a call.
    """

    def __init__(
        self,
        dialect: Dialect,
        names: Iterable[str],
        *,
        guided: bool,
        formed: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._syntax = dialect.syntax
        self._names = frozenset(names)
        self._guided = guided
        self._formed = formed
        self._new_id = new_id
        self._markers = (self._syntax.marker,) if self._syntax.marker else (PYTHON_TAG,)
        self._events: list[Event] = []
        self._held = ""
        self._ended = False
        # The possible start of a call, which is text if no call follows.
        self._taken = ""
        # The text of a guided call before its head.
        self._before_head = ""
        self._in_list = False
        self._calls = 0
        self._has_text = False
        self._json = JsonEnd()
        self._step = self._find_marker if self._syntax.marker else self._find_start
        if formed:
            self._step = self._find_beginning

    def push(self, text: str) -> list[Event]:
        """Add the next chunk of the answer, and return the events that are certain now."""
        self._held += text
        return self._run()

    def finish(self) -> list[Event]:
        """End the answer, and return the remaining events."""
        self._ended = True
        return self._run()

    def _run(self) -> list[Event]:
        while self._step():
            pass
        events, self._events = self._events, []
        return events

    # Each step examines the held text, and returns whether another step may be possible.

    def _find_start(self) -> bool:
        """Decide by the first character whether the answer, as a whole, is calls."""
        start = self._held.lstrip(SPACE)
        if not start and not self._ended:
            return False
        if start.startswith("{"):
            self._begin(self._held[: len(self._held) - len(start)], "")
        else:
            self._step = self._find_marker
        return True

    def _find_beginning(self) -> bool:
        """Decide by its beginning whether an answer that may have a form is calls."""
        start = self._held.lstrip(SPACE)
        if not self._ended and any(marker.startswith(start) for marker in self._markers):
            return False
        if start.startswith(self._markers):
            self._step = self._find_marker
        elif start.startswith("{") and not self._syntax.marker:
            self._step = self._find_start
        else:
            self._step = self._emit_rest
        return True

    def _emit_rest(self) -> bool:
        self._emit_text(self._held)
        self._held = ""
        return False

    def _find_marker(self) -> bool:
        """Emit text up to a marker, or up to the possible start of one."""
        matches = [(at, mark) for mark in self._markers if (at := self._held.find(mark)) >= 0]
        if matches:
            at, marker = min(matches)
            text = self._held[:at].rstrip(SPACE)
            self._emit_text(text)
            taken = self._held[len(text) : at + len(marker)]
            self._held = self._held[len(text) :]
            self._begin(taken, self._syntax.begin.removeprefix(marker))
            return True
        if self._ended:
            if self._calls == 0 or self._held.strip(SPACE):
                self._emit_text(self._held)
            self._held = ""
            return False
        held_back = max(overlap(self._held, marker) for marker in self._markers)
        certain = self._held[: len(self._held) - held_back].rstrip(SPACE)
        self._emit_text(certain)
        self._held = self._held[len(certain) :]
        return False

    def _begin(self, taken: str, before_head: str) -> None:
        self._taken = taken
        self._before_head = before_head
        self._held = self._held[len(taken) :]
        self._json = JsonEnd()
        self._step = self._find_head if self._guided else self._find_call

    def _find_head(self) -> bool:
        """Match the head of a guided call, one of a few fixed strings."""
        for name in self._names:
            head = self._before_head + self._syntax.head(name)
            if self._held.startswith(head):
                self._held = self._held[len(head) :]
                self._start(name)
                self._in_list = self._before_head.endswith("[") or self._in_list
                self._json = JsonEnd()
                self._step = self._emit_arguments
                return True
            if head.startswith(self._held) and not self._ended:
                return False
        self._step = self._find_call
        return True

    def _emit_arguments(self) -> bool:
        ended = self._json.push(self._held) is not None
        arguments, self._held = self._held[: self._json.at], self._held[self._json.at :]
        self._json.at = 0
        if arguments:
            self._events.append(CallArguments(self._calls - 1, arguments))
        if not ended and not self._json.broken:
            return False
        self._step = self._find_tail
        return True

    def _find_tail(self) -> bool:
        tail = self._syntax.tail
        if len(self._held) < len(tail) and not self._ended:
            return False
        self._held = self._held.removeprefix(tail)
        self._step = self._find_next
        return True

    def _find_call(self) -> bool:
        """Match a whole call, or a list of calls."""
        value = self._held.lstrip(SPACE)
        skipped = len(self._held) - len(value)
        name = None
        if not self._syntax.arguments and not value.startswith(("{", "[")):
            if "[ARGS]" not in value and len(value) < _NAME_FIELDS and not self._ended:
                return False
            match = _NAMED.match(value)
            if match is None:
                return self._give_up()
            name = match[1]
            rest = value[match.end() :].lstrip(SPACE)
            skipped += len(value) - len(rest)
            value = rest
        end = self._json.push(value)
        if self._json.broken or (end is None and self._ended):
            return self._give_up()
        if end is None:
            return False
        calls = read_calls(value[:end], name)
        if not calls or any(called not in self._names for called, _ in calls):
            return self._give_up()
        self._held = self._held[skipped + end :]
        for called, arguments in calls:
            self._start(called)
            self._events.append(CallArguments(self._calls - 1, arguments))
        self._step = self._find_next
        return True

    def _give_up(self) -> bool:
        """Emit as text what looked like a call; a call may still follow."""
        self._emit_text(self._taken)
        self._in_list = False
        self._step = self._emit_rest if self._formed else self._find_marker
        return True

    def _find_next(self) -> bool:
        """Match, after a call, another call or the end of the calls."""
        rest = self._held.lstrip(SPACE)
        closing = self._syntax.closing
        if not self._ended and (not rest or (closing and closing.startswith(rest))):
            return False
        separator = "," if self._in_list else ";"
        if (self._in_list or not self._syntax.marker) and rest.startswith(separator):
            following = rest[1:].lstrip(SPACE)
            if not following and not self._ended:
                return False
            if following.startswith("{"):
                self._begin(self._held[: len(self._held) - len(following)], "")
                return True
        if self._in_list and rest.startswith("]"):
            self._in_list = False
            self._held = rest[1:]
            return True
        self._in_list = False
        if rest and closing.startswith(rest):
            self._held = ""
        elif closing and rest.startswith(closing):
            self._held = rest.removeprefix(closing)
        self._step = self._find_marker
        return True

    def _start(self, name: str) -> None:
        self._events.append(CallStarted(self._calls, self._new_id(), name))
        self._calls += 1

    def _emit_text(self, text: str) -> None:
        if self._calls and not self._has_text:
            text = text.lstrip(SPACE)
        if text:
            self._has_text = True
            self._events.append(Text(text))
