"""Human-readable sizes, in decimal units as for disks and files."""

MEGA = 1_000_000
GIGA = 1_000_000_000


def megabytes(size: int) -> str:
    """Format a size in bytes, `119.3 MB`."""
    return f"{size / MEGA:.1f} MB"


def gigabytes(size: int) -> str:
    """Format a size in bytes, `2.2 GB`."""
    return f"{size / GIGA:.1f} GB"
