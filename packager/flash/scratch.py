"""The part of an image that an installation reads, as a folder on this machine.

The installer works on folders. So that it needs no second version for images, it installs into
such a folder; what it changed there is then written into the image (`transfer.py`). Links are
resolved inside the image and are copied as links, so the folder leads an installation along the
same way as the image would.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runtime.update.links import STATE
from device_runtime.update.target import C_LIBRARIES, MAX_LIBRARY_BYTES, MAX_LINKS, PROBES
from device_runtime.update.units import PROGRAM_NAME, PROGRAMS, UNITS, WANTS
from packager.errors import FlashError, ResourceError
from packager.flash.ext4 import DAMAGED, ROOT_INODE, Entry, FileSystem, is_folder

RELEASE_FILES = ("etc/os-release", "usr/lib/os-release")
MAX_FILES = 200_000
MAX_DEPTH = 40

FOLDERS = (PROGRAMS, UNITS, WANTS)
"""Folders of which only the entries of edgepack are copied."""
TREES = (STATE, "etc/edgepack")


class LoopError(FlashError):
    """Links in an image that lead nowhere."""


@dataclass(frozen=True)
class Place:
    """The end of a path in an image, all links resolved.

    Attributes:
        path: path without links, relative to the root.
        entry: the file or folder there; None if it is missing.
    """

    path: str
    entry: Entry | None


class Tree:
    """The names of a file system, looked up as the kernel would with this root."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._listed: dict[int, dict[str, Entry]] = {}

    def entries(self, folder: int) -> dict[str, Entry]:
        """List a folder by its inode."""
        if folder not in self._listed:
            self._listed[folder] = self._files.entries(folder)
        return self._listed[folder]

    def resolve(self, path: str, on_link: Callable[[str, str], None] | None = None) -> Place:
        """Find a file or folder.

        Args:
            path: path relative to the root.
            on_link: called with the path and the target of each link on the way.

        Raises:
            LoopError: the links in the path form a loop.
        """
        root = Entry(inode=ROOT_INODE, mode=stat.S_IFDIR | 0o755, owner=(0, 0), size=0)
        way = [("", root)]
        left = path.split("/")[::-1]
        links = 0
        while left:
            name = left.pop()
            around, folder = way[-1]
            if name in ("", "."):
                continue
            if name == "..":
                way = way[:-1] or way
                continue
            here = _below(around, name)
            entry = self.entries(folder.inode).get(name) if is_folder(folder) else None
            if entry is not None and stat.S_ISLNK(entry.mode):
                links += 1
                target = self._files.link_target(entry)
                if links > MAX_LINKS or target is None:
                    raise LoopError(f"symlink loop at {path} in the image", hint=DAMAGED)
                if on_link is not None:
                    on_link(here, target)
                if target.startswith("/"):
                    way = way[:1]
                left += target.split("/")[::-1]
            elif entry is None:
                rest = [part for part in left[::-1] if part not in ("", ".")]
                return Place("/".join([here, *rest]), None)
            else:
                way.append((here, entry))
        return Place(*way[-1])

    def is_root(self) -> bool:
        """Return whether this is the root file system of a Linux system."""
        try:
            if not all(is_folder(self.resolve(path).entry) for path in ("etc", "usr")):
                return False
            return any(self.resolve(path).entry is not None for path in RELEASE_FILES)
        except LoopError:
            return False


class Scratch:
    """A folder that is filled from an image.

    Attributes:
        root: the folder.
        inodes: inode in the image by the inode of its copy.
        total_bytes: sum of the sizes of the files to copy, after `prepare`.
    """

    def __init__(self, files: FileSystem, work: Path, max_bytes: int) -> None:
        """Create the folder.

        Args:
            files: the image's root file system.
            work: an existing folder; the new one and temporary files are created in it.
            max_bytes: most bytes to copy.
        """
        self.root = work / "root"
        self.root.mkdir()
        self.inodes: dict[int, int] = {}
        self._work = work
        self._files = files
        self._tree = Tree(files)
        self.total_bytes = 0
        self._max_bytes = max_bytes
        self._left_files = MAX_FILES
        self._copies: dict[int, list[tuple[str, int]]] = {}

    def prepare(self) -> None:
        """Find all that an installation reads; create its folders and links.

        Raises:
            FlashError: the image has what an installation cannot follow.
            ResourceError: the releases in the image are larger than the space for them here.
        """
        for path in (*RELEASE_FILES, *PROBES, *(f"{base}/libc.so.6" for base in C_LIBRARIES)):
            place = self._follow(path)
            entry = place.entry
            if entry and stat.S_ISREG(entry.mode) and entry.size <= MAX_LIBRARY_BYTES:
                self._take(place.path, entry, 0)
        for path in FOLDERS:
            place = self._follow(path)
            if place.entry is not None and is_folder(place.entry):
                self._make_folder(place.path, place.entry.mode)
                for name, entry in self._tree.entries(place.entry.inode).items():
                    if name.startswith("edgepack") or name == PROGRAM_NAME:
                        self._take(_below(place.path, name), entry, 0)
        for path in TREES:
            place = self._follow(path)
            if place.entry is not None:
                self._take(place.path, place.entry, 0)

    def copy(self, on_bytes: Callable[[int], None]) -> None:
        """Copy the files that `prepare` found.

        Args:
            on_bytes: called with the size of each file that is copied.

        Raises:
            FlashError: a file cannot be read.
        """
        first = {inode: self.root / paths[0][0] for inode, paths in self._copies.items()}
        self._files.dump(first, self._work, on_bytes)
        for inode, paths in self._copies.items():
            for path, _ in paths[1:]:
                if not (self.root / path).exists():
                    os.link(first[inode], self.root / path)
            first[inode].chmod(stat.S_IMODE(paths[0][1]) & 0o777)
            self.inodes[first[inode].stat().st_ino] = inode

    def _follow(self, path: str) -> Place:
        """Resolve a path; its links, and the folders on the way, get their copies."""
        place = self._tree.resolve(path, self._make_link)
        self._make_parents(place.path)
        return place

    def _make_parents(self, path: str) -> None:
        """Copy the folders above a path without links, as far as they exist."""
        names = path.split("/")[:-1]
        folder = ROOT_INODE
        for depth, name in enumerate(names, start=1):
            entry = self._tree.entries(folder).get(name)
            if entry is None or not is_folder(entry):
                return
            self._make_folder("/".join(names[:depth]), entry.mode)
            folder = entry.inode

    def _make_folder(self, path: str, mode: int) -> None:
        folder = self.root / path
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(stat.S_IMODE(mode) & 0o777 | 0o700)

    def _make_link(self, path: str, target: str) -> None:
        self._make_parents(path)
        link = self.root / path
        if not link.is_symlink():
            link.symlink_to(target)

    def _take(self, path: str, entry: Entry, depth: int) -> None:
        """Copy an entry with all that is in it; contents of files follow in `copy`."""
        self._left_files -= 1
        if self._left_files < 0 or depth > MAX_DEPTH:
            raise FlashError(f"/{path} of the image has too many files", hint=DAMAGED)
        if is_folder(entry):
            self._make_folder(path, entry.mode)
            for name, child in self._tree.entries(entry.inode).items():
                self._take(_below(path, name), child, depth + 1)
        elif stat.S_ISLNK(entry.mode):
            target = self._files.link_target(entry)
            if target is not None:
                self._make_link(path, target)
        elif stat.S_ISREG(entry.mode):
            if entry.inode not in self._copies:
                self.total_bytes += entry.size
            if self.total_bytes > self._max_bytes:
                raise ResourceError(
                    "the releases in the image are larger than the free space here",
                    hint="Free some space on the disk of the image.",
                )
            self._copies.setdefault(entry.inode, []).append((path, entry.mode))


def _below(folder: str, name: str) -> str:
    """Join a path that is empty for the root, and a name, to a path that stays relative."""
    return f"{folder}/{name}" if folder else name
