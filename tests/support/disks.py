"""File systems that are soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Make a folder that is a disk of its own (`64k`, `40m`); takes root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that is ending may still have a file open there.
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def overlay(folder: Path, lower: Path) -> Iterator[Path]:
    """Make a folder that shows another one and keeps all changes for itself; takes root."""
    places = [folder / name for name in ("upper", "work", "merged")]
    for place in places:
        place.mkdir(parents=True)
    upper, work, merged = places
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "--lazy", merged], check=True)
