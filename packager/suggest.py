"""Suggestions after a mistyped name."""

import difflib
from collections.abc import Iterable


def suggest(wrong: str, right: Iterable[str]) -> str:
    """Format a hint: the nearest name, if any is near, then all names."""
    names = sorted(right)
    near = _near(wrong, names)
    start = f"Did you mean {near}? " if near else ""
    return f"{start}Available: {', '.join(names)}."


def nearest(wrong: str, right: Iterable[str]) -> str:
    """Format the end of a message: `; did you mean X?`, or nothing if no name is near."""
    near = _near(wrong, right)
    return f"; did you mean {near}?" if near else ""


def _near(wrong: str, right: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(wrong.lower(), list(right), n=1, cutoff=0.5)), "")
