"""The log on stderr: one event with its fields per line, as text or as JSON.

No field may contain a prompt or an answer, or part of one.
"""

import json
import logging
import select
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

log = logging.getLogger(__name__)

LIBRARY_LINES = 20
"""Lines that a library may write within `LIBRARY_S`; more are dropped."""
LIBRARY_S = 10.0

_FIELDS = "edgepack_fields"
_PATIENCE_MS = 100
_PIECE = 1024
"""Characters written at once: in UTF-8 they take at most PIPE_BUF bytes (pipe(7)), for which a
writable pipe has room."""


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log an event."""
    logger.log(level, name, extra={_FIELDS: fields})


def set_up(form: Literal["text", "json"]) -> None:
    """Configure the process's log in this form."""
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_Lines(form))
    handler.addFilter(_Few())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _Stderr(logging.StreamHandler[TextIO]):
    """A handler that drops lines instead of blocking, and counts them.

    A pipe without a reader is full after a few hundred lines, and a terminal may be paused: a write
    would then block the whole process.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._dropped = 0
        self._torn = False
        self._room: select.poll | None = None
        # A stream without a file descriptor, as in tests, never blocks.
        with suppress(OSError):
            number = stream.fileno()
            self._room = select.poll()
            self._room.register(number, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if there is room for it."""
        try:
            if self._dropped and self._has_room():
                dropped, self._dropped = self._dropped, 0
                if self._torn:
                    self._torn = False
                    self._write(self.terminator)
                event(log, logging.WARNING, "log_lines_dropped", lines=dropped)
            self._write(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)

    def _write(self, line: str) -> None:
        for start in range(0, len(line), _PIECE):
            if not self._has_room():
                self._dropped += 1
                self._torn |= start > 0
                return
            self.stream.write(line[start : start + _PIECE])
            self.flush()

    def _has_room(self) -> bool:
        # A slow reader gets some time, once.
        patience_ms = 0 if self._dropped else _PATIENCE_MS
        return self._room is None or bool(self._room.poll(patience_ms))


class _Few(logging.Filter):
    """Lets few lines of a library pass: asyncio has one for each connection it cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, int] = {}
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is one of the program itself, or one of the first for a while."""
        if hasattr(record, _FIELDS):
            return True
        now = time.monotonic()
        if now >= self._until:
            self._passed, self._until = {}, now + LIBRARY_S
        self._passed[record.name] = self._passed.get(record.name, 0) + 1
        return self._passed[record.name] <= LIBRARY_LINES


class _Lines(logging.Formatter):
    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, whatever its fields contain."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shown: dict[str, Any] = {"ts": at.replace("+00:00", "Z"), "level": record.levelname.lower()}
        fields = getattr(record, _FIELDS, None)
        if fields is None:
            # A library's own message.
            fields = {"logger": record.name, "message": record.getMessage()}
            name = "log"
        else:
            name = record.msg
        shown |= {"event": name, **fields}
        if record.exc_info:
            shown["traceback"] = self.formatException(record.exc_info)
        if self._form == "json":
            return json.dumps(shown, default=str)
        return " ".join(f"{key}={_shown(value)}" for key, value in shown.items())


def _shown(value: object) -> str:
    """Format a value as text: on one line, quoted if necessary."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
