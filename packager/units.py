"""Human-readable sizes and numbers, in decimal units as for disks and files."""

import re

MEGA = 1_000_000
GIGA = 1_000_000_000


def megabytes(size: int) -> str:
    """Format a size in bytes, `119.3 MB`."""
    return f"{size / MEGA:.1f} MB"


def gigabytes(size: int) -> str:
    """Format a size in bytes, `2.2 GB`."""
    return f"{size / GIGA:.1f} GB"


def duration(seconds: float) -> str:
    """Format a time in words that a person would use: `40 s`, `12 min`, `1 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def parameters(count: int) -> str:
    """Format a number of parameters, `134.5 M` or `1.2 B`."""
    return f"{count / MEGA:.1f} M" if count < GIGA else f"{count / GIGA:.1f} B"


def size(text: str) -> int:
    """Read a size in bytes: `8G`, `500MB`, `1.5 GB`, `4096`.

    Raises:
        ValueError: the text is not a size.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) ?([KMGT]?)B?", text.strip().upper(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size: use a number and K, M, G or T, for example 8G")
    factor: int = 1000 ** " KMGT".index(match[2] or " ")
    return round(float(match[1]) * factor)
