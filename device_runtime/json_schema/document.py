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

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-]+")


class UnsupportedSchemaError(RequestError):
    """A schema that the engine cannot keep to.

    Attributes:
        keyword: which keyword of it.
        path: where that is, `$.properties.a.uniqueItems`.
    """

    api_code = "unsupported_schema"

    def __init__(self, keyword: str, path: str, reason: str) -> None:
        super().__init__(
            f"{keyword} {reason}", hint="docs/structured-output.md has what it can do."
        )
        self.keyword = keyword
        self.path = path


@dataclass(frozen=True)
class Source:
    """A schema within the client's schema; those of one place are equal."""

    path: str
    schema: Any = field(compare=False)

    def at(self, *steps: str | int) -> "Source":
        """The schema below."""
        path, schema = self.path, self.schema
        for step in steps:
            path, schema = path + _shown(step), schema[step]
        return Source(path, schema)

    def error(self, keyword: str, reason: str) -> UnsupportedSchemaError:
        """Make the error about a keyword of this schema."""
        return UnsupportedSchemaError(_short(keyword), self.path + _shown(keyword), reason)


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
        self.root = Source("$", schema)
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
    for count, (value, path, depth) in enumerate(_values(schema)):
        texts = [value] if isinstance(value, str) else []
        if isinstance(value, dict):
            texts = [name for name in value if isinstance(name, str)]
            if len(texts) < len(value):
                raise UnsupportedSchemaError("schema", path, "has a name that is not a string")
            if any(len(name) > MAX_NAME for name in texts):
                raise UnsupportedSchemaError(
                    "schema", path, f"has a name longer than {MAX_NAME} characters"
                )
        characters += sum(map(len, texts))
        if count > MAX_VALUES or characters > MAX_CHARACTERS or depth > MAX_NESTING:
            raise UnsupportedSchemaError("schema", "$", "is too large")
        if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            raise UnsupportedSchemaError("schema", path, "has half of a surrogate pair")
        if isinstance(value, float) and not math.isfinite(value):
            raise UnsupportedSchemaError("schema", path, "has a number that JSON does not have")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UnsupportedSchemaError("schema", path, "has an integer of more than 64 bits")
        if not isinstance(value, dict | list | str | int | float | None):
            raise UnsupportedSchemaError("schema", path, "is not JSON")


def _values(schema: Any) -> Iterator[tuple[Any, str, int]]:
    """List every value with its path and depth, parents first."""
    waiting = [(schema, "$", 0)]
    while waiting:
        value, path, depth = waiting.pop()
        yield value, path, depth
        if isinstance(value, dict):
            waiting.extend((inner, path + _shown(name), depth + 1) for name, inner in value.items())
        elif isinstance(value, list):
            waiting.extend((inner, f"{path}[{n}]", depth + 1) for n, inner in enumerate(value))


def _shown(step: str | int) -> str:
    if isinstance(step, str) and _PLAIN_NAME.fullmatch(step):
        return f".{step}"
    return f"[{json.dumps(step)}]"


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME else text[:MAX_NAME] + "…"
