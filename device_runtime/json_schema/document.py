"""A client's schema as it came: bounds on its size, places in it, and references."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from device_runtime.errors import RequestError

MAX_CHARACTERS = 65_536
"""Of all names and strings: a schema beyond would not fit a small model's prompt either."""
MAX_VALUES = 5_000
MAX_NESTING = 64
MAX_NAME = 256
MAX_INTEGER = 2**64

Steps = tuple[str | int, ...]
"""Names and numbers that lead from a schema to a part of it."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-]+")


class UnsupportedSchemaError(RequestError):
    """A schema that the engine cannot keep to.

    Attributes:
        keyword: which keyword of it.
        steps: names and numbers that lead there, the keyword's last.
    """

    api_code = "unsupported_schema"

    def __init__(self, keyword: str, steps: Steps, reason: str) -> None:
        super().__init__(
            f"{keyword} {reason}", hint="docs/structured-output.md has what it can do."
        )
        self.keyword = keyword
        self.steps = steps

    @property
    def path(self) -> str:
        """Return the path of the keyword, `$.properties.a.uniqueItems`."""
        return "$" + "".join(map(_shown, self.steps))


@dataclass(frozen=True)
class Source:
    """A schema within the client's schema; those of one place are equal."""

    steps: Steps
    schema: Any = field(compare=False)

    def at(self, *steps: str | int) -> "Source":
        """The schema below."""
        schema = self.schema
        for step in steps:
            schema = schema[step]
        return Source((*self.steps, *steps), schema)

    def error(self, keyword: str, reason: str) -> UnsupportedSchemaError:
        """Make the error about a keyword of this schema."""
        return UnsupportedSchemaError(_short(keyword), (*self.steps, keyword), reason)


class Document:
    """The whole schema.

    Attributes:
        root: of it.
    """

    def __init__(self, schema: Any) -> None:
        """Check what can be checked of any JSON.

        Raises:
            UnsupportedSchemaError: it is too large, or holds what cannot be sent.
        """
        self.root = Source((), schema)
        _check(schema)

    def target(self, source: Source) -> Source:
        """Find the schema that the `$ref` of another refers to.

        Raises:
            UnsupportedSchemaError: nothing in this document.
        """
        reference = source.schema["$ref"]
        if not isinstance(reference, str):
            raise source.error("$ref", "must be a string")
        if reference != "#" and not reference.startswith("#/"):
            raise source.error("$ref", "is supported only within the schema, as in #/$defs/name")
        target = self.root
        for part in reference.split("/")[1:]:
            step: str | int = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                step = int(step) if isinstance(target.schema, list) else step
                target = target.at(step)
            except (KeyError, IndexError, TypeError, ValueError):
                raise source.error("$ref", f"has no target: {_short(reference)}") from None
        return target


def _check(schema: Any) -> None:
    characters = 0
    for count, (value, steps) in enumerate(_values(schema)):
        texts = [value] if isinstance(value, str) else []
        if isinstance(value, dict):
            texts = [name for name in value if isinstance(name, str)]
            if len(texts) < len(value):
                raise UnsupportedSchemaError("schema", steps, "has a name that is not a string")
            if any(len(name) > MAX_NAME for name in texts):
                raise UnsupportedSchemaError(
                    "schema", steps, f"has a name longer than {MAX_NAME} characters"
                )
        characters += sum(map(len, texts))
        if count > MAX_VALUES or characters > MAX_CHARACTERS or len(steps) > MAX_NESTING:
            raise UnsupportedSchemaError("schema", (), "is too large")
        if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            raise UnsupportedSchemaError("schema", steps, "has half of a surrogate pair")
        if isinstance(value, float) and not math.isfinite(value):
            raise UnsupportedSchemaError("schema", steps, "has a number that JSON does not have")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UnsupportedSchemaError("schema", steps, "has an integer of more than 64 bits")
        if not isinstance(value, dict | list | str | int | float | None):
            raise UnsupportedSchemaError("schema", steps, "is not JSON")


def _values(schema: Any) -> Iterator[tuple[Any, Steps]]:
    """List every value with the steps that lead there, parents first."""
    waiting: list[tuple[Any, Steps]] = [(schema, ())]
    while waiting:
        value, steps = waiting.pop()
        yield value, steps
        if isinstance(value, dict):
            waiting.extend((inner, (*steps, name)) for name, inner in value.items())
        elif isinstance(value, list):
            waiting.extend((inner, (*steps, number)) for number, inner in enumerate(value))


def without(schema: Any, steps: Steps) -> Any:
    """Copy a schema without what an error is about.

    Args:
        schema: the schema, which stays as it is.
        steps: those of the error. A `oneOf` becomes `anyOf` where it can; a schema that does not
            have the keyword is replaced by one for any value.
    """
    if not steps:
        return {}
    step, *rest = steps
    if isinstance(schema, list | dict) and rest:
        copy: Any = schema.copy()
        copy[step] = without(copy[step], tuple(rest))
        return copy
    if not isinstance(schema, dict) or step not in schema:
        return {}
    kept = {name: value for name, value in schema.items() if name != step}
    return {"anyOf": schema[step], **kept} if step == "oneOf" else kept


def _shown(step: str | int) -> str:
    if isinstance(step, str) and _PLAIN_NAME.fullmatch(step):
        return f".{step}"
    return f"[{json.dumps(step)}]"


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME else text[:MAX_NAME] + "…"
