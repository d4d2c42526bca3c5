"""What a power cut would leave of a folder, from the calls of fsync and rename.

The model is the worst that POSIX allows: contents and names are on the disk only once fsync was
called for their file or folder, and a rename may get there at once.
"""

import os
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """What of a folder is on the disk: what was there at the start, and what was flushed since.

    Attributes:
        too_early: what was not on the disk yet when it, or a folder around it, was renamed.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.too_early: list[str] = []
        self._root = root
        self._flushed: dict[int, object] = {}
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                self._flushed[path.stat().st_ino] = _content(path)
        self._fsync, self._rename = os.fsync, os.rename
        patch.setattr(os, "fsync", self._flush)
        patch.setattr(os, "rename", self._move)
        patch.setattr(os, "replace", self._move)

    def lost(self, path: Path) -> list[str]:
        """What a power cut takes of a file, or of a folder and everything in it."""
        paths = [path, *(path.rglob("*") if path.is_dir() else ())]
        return [
            str(path.relative_to(self._root))
            for path in paths
            if not path.is_symlink() and self._flushed.get(path.stat().st_ino) != _content(path)
        ]

    def _flush(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        self._flushed[path.stat().st_ino] = _content(path)

    def _move(self, source: Any, target: Any, **folders: int) -> None:
        folder = folders.get("src_dir_fd")
        around = Path(f"/proc/self/fd/{folder}").resolve() if folder is not None else Path()
        self.too_early += self.lost(around / source)
        self._rename(source, target, **folders)


def _content(path: Path) -> object:
    if path.is_dir():
        return {
            entry.name: (entry.lstat().st_ino, str(entry.readlink()) if entry.is_symlink() else "")
            for entry in path.iterdir()
        }
    return path.read_bytes(), path.stat().st_mode
