"""Helps after a mistyped name."""

import difflib
from collections.abc import Iterable


def suggest(wrong: str, right: Iterable[str]) -> str:
    """The hint: the nearest name, if one is near, then all there are."""
    names = sorted(right)
    near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.5)
    start = f"Did you mean {near[0]}? " if near else ""
    return f"{start}There are: {', '.join(names)}."
