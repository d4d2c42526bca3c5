"""The log, on stderr: an event with its fields on each line, as text or as JSON.

No field may hold a prompt or an answer, or a part of one.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_FIELDS = "edgepack_fields"


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log an event."""
    logger.log(level, name, extra={_FIELDS: fields})


def set_up(form: Literal["text", "json"]) -> None:
    """Log in this form from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(form))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _Lines(logging.Formatter):
    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
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
    """A value in the text form: quoted where it has to be, always on one line."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
