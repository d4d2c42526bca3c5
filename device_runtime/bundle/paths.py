"""Rules for the paths of a release, checked before anything is written."""

from collections.abc import Collection
from pathlib import PurePosixPath

MAX_NAME_BYTES = 255
"""Longest name that file systems take: bytes of UTF-8, not characters."""
MAX_PATH_BYTES = 512
MAX_DEPTH = 32
"""Folders above a file. A frozen runtime has up to 11."""
MAX_FOLDERS = 5_000
"""Folders of a release, so that a small manifest cannot make millions. A runtime has about 100."""


def safe_path(path: str) -> bool:
    """Return whether a path is relative, normalized, printable and stays below its folder."""
    # Surrogates are not printable, and the only characters without bytes in UTF-8.
    return (
        path.isprintable()
        and 0 < len(path.encode()) <= MAX_PATH_BYTES
        and "\\" not in path
        and path.count("/") <= MAX_DEPTH
        and all(
            0 < len(part.encode()) <= MAX_NAME_BYTES and part not in (".", "..")
            for part in path.split("/")
        )
    )


def link_stays_inside(path: str, target: str) -> bool:
    """Return whether a relative link stays in the release, whatever the other links are.

    `..` may only lead the target: there it climbs real folders, since no record lies below a
    link. After a name it could climb from wherever that name's own link leads.
    """
    parts = target.split("/")
    climbs = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
    return climbs <= path.count("/") and safe_path("/".join(parts[climbs:]))


def tree_problems(paths: Collection[str]) -> list[str]:
    """List the rules that safe paths break together, one sentence each."""
    broken: list[str] = []
    known: set[str] = set()
    for path in paths:
        if path in known:
            broken.append(f"{path} is a duplicate")
        known.add(path)
    folders: set[str] = set()
    for path in known:
        for parent in PurePosixPath(path).parents:
            name = str(parent)
            if name in folders:
                break
            folders.add(name)
            if name in known:
                broken.append(f"{path} is below {name}, which is not a folder")
    if len(folders) > MAX_FOLDERS:
        broken.append(f"more than {MAX_FOLDERS} folders")
    return broken
