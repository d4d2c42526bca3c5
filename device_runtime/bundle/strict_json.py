"""JSON from outside, checked before it becomes anything: one meaning, and no work without bound."""

import json
import re
from typing import Any, NoReturn

from device_runtime.errors import BundleError

MAX_DEPTH = 32
MAX_VALUES = 300_000
"""More than the largest manifest has; parsed, each of them takes 60 bytes or more."""

# Possessive, and content with the end of the text: each byte is looked at once, whatever the text.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SAME = bytes.maketrans(b"{}", b"[]")


def check(data: bytes, name: str) -> None:
    """Refuse JSON that two readers may read differently, or that takes much work.

    Checks, in this order: UTF-8, the number of values, the depth, and, while it is parsed, the
    grammar, no name twice in an object, no NaN.

    Args:
        data: the text.
        name: what it is, for the message.

    Raises:
        BundleError: it is not such JSON.
    """
    try:
        text = data.decode()
        _check_work(data)
        json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except ValueError as error:
        raise BundleError(
            f"{name} is not valid: {error}",
            hint="Copy the bundle again from where it was built, or build it again.",
        ) from None


def _check_work(data: bytes) -> None:
    """Raise ValueError for too many values or levels; nothing is parsed."""
    # A name and a value have four quotation marks.
    many = data.count(b'"') > 4 * MAX_VALUES
    marks = b"" if many else _STRINGS.sub(b"", data)
    if many or marks.count(b",") >= MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    brackets = marks.translate(_SAME, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # The innermost level goes.
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep, or without an end")


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that an object has twice. The object itself is not kept."""
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise ValueError(f"{name[:64]!r} is there twice")
        names.add(name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
