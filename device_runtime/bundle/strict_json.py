"""JSON from outside, checked before it becomes anything: one meaning, and no work without bound."""

import json
import re
from typing import Any, NoReturn

from device_runtime.errors import BundleError

MAX_DEPTH = 32

# Possessive, and content with the end of the text: each byte is looked at once, whatever the text.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SAME = bytes.maketrans(b"{}", b"[]")


def check(data: bytes, name: str) -> None:
    """Refuse JSON that two readers may read differently, or that is nested deeply.

    Checks, in this order: UTF-8, the depth, the grammar, no name twice in an object, no NaN.

    Args:
        data: the text.
        name: what it is, for the message.

    Raises:
        BundleError: it is not such JSON.
    """
    try:
        text = data.decode()
        if not _shallow(data):
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep, or without an end")
        json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except ValueError as error:
        raise BundleError(
            f"{name} is not valid: {error}",
            hint="Copy the bundle again from where it was built, or build it again.",
        ) from None


def _shallow(data: bytes) -> bool:
    """Peel the innermost brackets off, once for each level; nothing is parsed."""
    brackets = _STRINGS.sub(b"", data).translate(_SAME, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that an object has twice. The object itself is not kept."""
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise ValueError(f"{name[:64]!r} is there twice")
        names.add(name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
