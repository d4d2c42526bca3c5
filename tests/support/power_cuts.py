"""What a power cut would leave of a folder, from the calls of fsync and rename.

The model is the worst that POSIX allows: contents and names are on the disk only once fsync was
called for their file or folder, and a rename may get there at once.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Disk:
    """What of a folder is on the disk: what was there at the start, and what was flushed since.

    Attributes:
        too_early: what was not on the disk yet when it, or a folder around it, was renamed.
        before_flush: called before each fsync; none by default.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.too_early: list[str] = []
        self.before_flush: Callable[[], None] = lambda: None
        self._root = root
        self._flushed: dict[int, _Content] = {}
        self._held: list[int] = []
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                self._keep(path)
        self._fsync, self._rename = os.fsync, os.rename
        patch.setattr(os, "fsync", self._flush)
        patch.setattr(os, "rename", self._move)
        patch.setattr(os, "replace", self._move)

    def close(self) -> None:
        """Let go of the files; the disk must not be used after that."""
        while self._held:
            os.close(self._held.pop())

    def lost(self, path: Path) -> list[str]:
        """What a power cut takes of a file, or of a folder and everything in it."""
        paths = [path, *(path.rglob("*") if path.is_dir() else ())]
        return [
            str(path.relative_to(self._root))
            for path in paths
            if not path.is_symlink() and self._flushed.get(path.stat().st_ino) != _content(path)
        ]

    def cut(self, target: Path, *, names: bool) -> None:
        """Write what a power cut at this moment leaves into a new folder.

        Args:
            target: path of the new folder.
            names: whether all names and links got to the disk by themselves, ahead of contents;
                else only those that were flushed did.
        """
        written: dict[int, Path] = {}

        def write(number: int, here: Path, new: Path, *, is_folder: bool) -> None:
            flushed = self._flushed.get(number)
            if is_folder:
                new.mkdir()
                entries = _content(here) if names else flushed or {}
                assert isinstance(entries, dict)
                for name, entry in entries.items():
                    if entry.link:
                        (new / name).symlink_to(entry.link)
                    else:
                        inner = (entry.number, here / name, new / name)
                        write(*inner, is_folder=entry.is_folder)
            elif number in written:
                new.hardlink_to(written[number])
            else:
                # A file that was not flushed is a name without content.
                data, mode = flushed if isinstance(flushed, tuple) else (b"", 0o600)
                new.write_bytes(data)
                new.chmod(stat.S_IMODE(mode))
                written[number] = new

        write(self._root.stat().st_ino, self._root, target, is_folder=True)

    def _keep(self, path: Path) -> None:
        number = path.stat().st_ino
        if number not in self._flushed:
            # An open file keeps its number when it is removed: no other file gets its content.
            self._held.append(os.open(path, os.O_RDONLY))
        self._flushed[number] = _content(path)

    def _flush(self, descriptor: int) -> None:
        self.before_flush()
        self._fsync(descriptor)
        self._keep(Path(f"/proc/self/fd/{descriptor}").resolve())

    def _move(self, source: Any, target: Any, **folders: int) -> None:
        folder = folders.get("src_dir_fd")
        around = Path(f"/proc/self/fd/{folder}").resolve() if folder is not None else Path()
        self.too_early += self.lost(around / source)
        self._rename(source, target, **folders)


class _Entry(NamedTuple):
    """An entry of a folder: the number of its file, and the target if it is a link."""

    number: int
    is_folder: bool
    link: str


_Content = dict[str, _Entry] | tuple[bytes, int]
"""Entries of a folder by name, or bytes and mode of a file."""


def _content(path: Path) -> _Content:
    if path.is_dir():
        return {
            entry.name: _Entry(
                entry.lstat().st_ino,
                stat.S_ISDIR(entry.lstat().st_mode),
                str(entry.readlink()) if entry.is_symlink() else "",
            )
            for entry in path.iterdir()
        }
    return path.read_bytes(), path.stat().st_mode
