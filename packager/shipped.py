"""Files that come with edgepack: beside the packages in a checkout, inside them in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the path of a file or folder such as `profiles` or `locks`."""
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name
