"""Finds the calls of tools in a model's answer, piece by piece."""

import re
import secrets
from collections.abc import Callable, Iterable

import msgspec

from device_runtime.tools.dialect import Dialect
from device_runtime.tools.json_calls import SPACE, JsonEnd, read_calls
from device_runtime.tools.syntax import PYTHON_TAG

_NAME_FIELDS = 160
"""More characters than `name[CALL_ID]id[ARGS]` can have."""

_NAMED = re.compile(r"([a-zA-Z0-9_-]{1,64})(?:\[CALL_ID\][a-zA-Z0-9]{1,64})?\[ARGS\]")


class Text(msgspec.Struct, frozen=True):
    """Text that is no call."""

    text: str


class CallStarted(msgspec.Struct, frozen=True):
    """A call begins. Calls are numbered from 0."""

    index: int
    id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """More of the JSON text of a call's arguments."""

    index: int
    delta: str


Event = Text | CallStarted | CallArguments


def new_call_id() -> str:
    """A random id, in OpenAI's form."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Tells text from calls in one answer.

    The events do not depend on how the answer is cut into pieces. A call to a tool that there is
    not, or whose JSON is invalid, is given out as text. White space beside calls is left out.

    Args:
        dialect: of the model.
        names: of the tools.
        guided: the answer keeps to a grammar of `tool_grammar`: arguments are given out as they
            come. Otherwise a call is given out when all of it is there and right.
        new_id: makes the id of a call.
    """

    def __init__(
        self,
        dialect: Dialect,
        names: Iterable[str],
        *,
        guided: bool,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._syntax = dialect.syntax
        self._names = frozenset(names)
        self._guided = guided
        self._new_id = new_id
        self._markers = (self._syntax.marker,) if self._syntax.marker else (PYTHON_TAG,)
        self._events: list[Event] = []
        self._held = ""
        self._ended = False
        # What was taken for the begin of a call, and is text if it is none.
        self._taken = ""
        # What a guided call has before its head.
        self._before_head = ""
        self._in_list = False
        self._calls = 0
        self._spoken = False
        self._json = JsonEnd()
        self._step = self._find_marker if self._syntax.marker else self._find_start

    def push(self, text: str) -> list[Event]:
        """Take the next piece of the answer; returns what is certain now."""
        self._held += text
        return self._run()

    def finish(self) -> list[Event]:
        """The answer has ended; returns the rest."""
        self._ended = True
        return self._run()

    def _run(self) -> list[Event]:
        while self._step():
            pass
        events, self._events = self._events, []
        return events

    # Each step looks at what is held, and returns whether there may be more to do.

    def _find_start(self) -> bool:
        """Where calls are the whole answer, its first character tells."""
        start = self._held.lstrip(SPACE)
        if not start and not self._ended:
            return False
        if start.startswith("{"):
            self._begin(self._held[: len(self._held) - len(start)], "")
        else:
            self._step = self._find_marker
        return True

    def _find_marker(self) -> bool:
        """Give out text up to a marker, or to what may become one."""
        found = [(at, mark) for mark in self._markers if (at := self._held.find(mark)) >= 0]
        if found:
            at, marker = min(found)
            text = self._held[:at].rstrip(SPACE)
            self._say(text)
            taken = self._held[len(text) : at + len(marker)]
            self._held = self._held[len(text) :]
            self._begin(taken, self._syntax.begin.removeprefix(marker))
            return True
        if self._ended:
            if self._calls == 0 or self._held.strip(SPACE):
                self._say(self._held)
            self._held = ""
            return False
        overlap = max(_overlap(self._held, marker) for marker in self._markers)
        certain = self._held[: len(self._held) - overlap].rstrip(SPACE)
        self._say(certain)
        self._held = self._held[len(certain) :]
        return False

    def _begin(self, taken: str, before_head: str) -> None:
        self._taken = taken
        self._before_head = before_head
        self._held = self._held[len(taken) :]
        self._json = JsonEnd()
        self._step = self._find_head if self._guided else self._find_call

    def _find_head(self) -> bool:
        """The begin of a guided call, which is one of a few texts."""
        for name in self._names:
            head = self._before_head + self._syntax.head(name)
            if self._held.startswith(head):
                self._held = self._held[len(head) :]
                self._start(name)
                self._in_list = self._before_head.endswith("[") or self._in_list
                self._json = JsonEnd()
                self._step = self._give_arguments
                return True
            if head.startswith(self._held) and not self._ended:
                return False
        self._step = self._find_call
        return True

    def _give_arguments(self) -> bool:
        ended = self._json.push(self._held) is not None
        given, self._held = self._held[: self._json.at], self._held[self._json.at :]
        self._json.at = 0
        if given:
            self._events.append(CallArguments(self._calls - 1, given))
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
        """A whole call, or a list of them."""
        value = self._held.lstrip(SPACE)
        skipped = len(self._held) - len(value)
        name = None
        if not self._syntax.arguments and not value.startswith(("{", "[")):
            if "[ARGS]" not in value and len(value) < _NAME_FIELDS and not self._ended:
                return False
            found = _NAMED.match(value)
            if found is None:
                return self._give_up()
            name = found[1]
            rest = value[found.end() :].lstrip(SPACE)
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
        """What was taken for a call is text; there may be a call in what follows."""
        self._say(self._taken)
        self._in_list = False
        self._step = self._find_marker
        return True

    def _find_next(self) -> bool:
        """After a call: another one, or the end of the calls."""
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

    def _say(self, text: str) -> None:
        if self._calls and not self._spoken:
            text = text.lstrip(SPACE)
        if text:
            self._spoken = True
            self._events.append(Text(text))


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of the text that the marker begins with."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
