"""The difference that an installation made in a folder, written into a file system."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.errors import FlashError, ResourceError
from packager.flash.ext4 import FileSystem, quoted
from packager.flash.scratch import Scratch, Tree
from packager.units import megabytes


@dataclass(frozen=True)
class Stamp:
    """An entry of a folder at a moment; equal stamps are entries that did not change.

    Attributes:
        mode: kind and permissions.
        inode: the inode.
        changed_ns: time of the last change of a file's content; 0 for others.
        size: length of a file; 0 for others.
        target: target of a link; empty for others.
    """

    mode: int
    inode: int
    changed_ns: int = 0
    size: int = 0
    target: str = ""


Snapshot = dict[str, Stamp]
"""All entries of a folder by their path in it."""


def snapshot(root: Path) -> Snapshot:
    """Take the stamps of everything in a folder."""
    stamps: Snapshot = {}
    for base, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(base, name)
            status = path.lstat()
            key = path.relative_to(root).as_posix()
            if stat.S_ISLNK(status.st_mode):
                stamps[key] = Stamp(status.st_mode, status.st_ino, target=str(path.readlink()))
            elif stat.S_ISDIR(status.st_mode):
                stamps[key] = Stamp(status.st_mode, status.st_ino)
            else:
                stamps[key] = Stamp(
                    status.st_mode, status.st_ino, status.st_mtime_ns, status.st_size
                )
    return stamps


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changes of a folder.

    Attributes:
        root: the folder.
        folders: new folders.
        modes: folders with a new mode.
        linked: new names of files that the image has, with the file's inode in the image.
        removed: entries that are gone or replaced, each after what is in it.
        files: new files.
        again: further names of new files, with the first one.
        links: new symbolic links.
        after: stamps of all entries that the folder has now.
        gone: folders among `removed`.
    """

    root: Path
    folders: tuple[str, ...]
    modes: tuple[str, ...]
    linked: dict[str, int]
    removed: tuple[str, ...]
    files: tuple[str, ...]
    again: dict[str, str]
    links: tuple[str, ...]
    after: Snapshot
    gone: frozenset[str]

    @property
    def content_bytes(self) -> int:
        """Sum of the sizes of the new files."""
        return sum(self.after[path].size for path in self.files)

    def lines(self) -> Iterator[str]:
        """Describe the changes, a line for each, and one for all that is in a new release."""
        releases = [path for path in self.folders if PurePosixPath(path).parent.name == "releases"]
        for release in releases:
            below = [path for path in self.files if path.startswith(f"{release}/")]
            shared = sum(path.startswith(f"{release}/") for path in self.linked)
            size = sum(self.after[path].size for path in below)
            yield f"new /{release}: {len(below)} files, {megabytes(size)}; {shared} shared"
        for word, paths in (
            ("remove", [path for path in self.removed if path not in self.after]),
            ("folder", self.folders),
            ("file", (*self.files, *self.again, *self.linked)),
            ("link", self.links),
        ):
            for path in sorted(paths):
                if not any(path == name or path.startswith(f"{name}/") for name in releases):
                    target = self.after[path].target if path in self.after else ""
                    yield f"{word} /{path}" + (f" -> {target}" if target else "")

    def check_space(self, files: FileSystem, spare: int, hint: str) -> None:
        """Refuse a file system in which the new files do not fit.

        Args:
            files: the file system.
            spare: bytes to leave free.
            hint: what to do next.

        Raises:
            ResourceError: it is too small.
        """
        disk = files.superblock
        unit = disk.block_size
        # A folder may need a second block, and a large file one for the list of its extents.
        blocks = sum(-(-self.after[path].size // unit) + 1 for path in self.files)
        blocks += 2 * len(self.folders) + len(self.links)
        needed = blocks * unit + spare
        free = disk.free_blocks * unit
        inodes = len(self.files) + len(self.folders) + len(self.links)
        if free < needed:
            raise ResourceError(
                f"the root file system has {free >> 20} MiB free; the release needs "
                f"{needed >> 20} MiB",
                hint=hint,
            )
        if disk.free_inodes < inodes:
            raise ResourceError(
                f"the root file system has room for {disk.free_inodes} more files; the release "
                f"has {inodes}",
                hint=hint,
            )

    def script(self, link_counts: dict[int, int]) -> Iterator[str]:
        """Return the commands of debugfs that make the same changes.

        Args:
            link_counts: present numbers of hard links of the inodes in `linked`.

        Raises:
            FlashError: a name cannot be part of a command.
        """
        # debugfs counts the links that it removes, and not those that it makes. They are counted
        # first, so that a file that only gets another name is not removed in between.
        for inode, added in Counter(self.linked.values()).items():
            yield f"sif <{inode}> links_count {link_counts[inode] + added}"
        for path in self.removed:
            yield f"{'rmdir' if path in self.gone else 'rm'} {_absolute(path)}"
        for path in self.folders:
            yield f"mkdir {_absolute(path)}"
        for path in (*self.folders, *self.modes):
            yield f"sif {_absolute(path)} mode 0{self.after[path].mode:o}"
        for path, inode in self.linked.items():
            yield f"ln <{inode}> {_absolute(path)}"
        # Older versions of debugfs take the whole path for the name of the new file.
        for path in self.files:
            yield f"cd {_absolute(str(PurePosixPath(path).parent))}"
            yield f"write {quoted(path)} {quoted(PurePosixPath(path).name)}"
        # The folder of a new name in the root is empty, which debugfs takes for the working folder.
        yield 'cd "/"'
        for path, first in self.again.items():
            yield f"ln {_absolute(first)} {_absolute(path)}"
        for first, added in Counter(self.again.values()).items():
            yield f"sif {_absolute(first)} links_count {1 + added}"
        for path in self.links:
            yield f"symlink {_absolute(path)} {quoted(self.after[path].target)}"

    def write(self, files: FileSystem, on_bytes: Callable[[int], None]) -> None:
        """Make the changes in a file system.

        Args:
            files: the file system.
            on_bytes: called with the size of each file when it is written.

        Raises:
            FlashError: a name cannot be written, or the file system cannot be changed.
        """
        script = tuple(self.script(files.link_counts(set(self.linked.values()))))
        sizes = iter([self.after[path].size for path in self.files])

        def on_command(command: str) -> None:
            if command.startswith("write "):
                on_bytes(next(sizes))

        files.change(script, self.root, on_command)

    def compare(self, files: FileSystem, on_bytes: Callable[[int], None]) -> None:
        """Read all that was written and compare it with the folder.

        Args:
            files: the file system.
            on_bytes: called with the number of bytes read, for each chunk.

        Raises:
            FlashError: something differs.
        """
        tree = Tree(files)
        new = {*self.folders, *self.files, *self.links, *self.linked, *self.again}
        for path in sorted({*new, *self.modes, *self.removed}):
            around, _, name = path.rpartition("/")
            folder = tree.resolve(around).entry
            entry = tree.entries(folder.inode).get(name) if folder is not None else None
            stamp = self.after.get(path)
            if (entry is None) != (stamp is None):
                raise _differs(path)
            if entry is None or stamp is None:
                continue
            if entry.mode != stamp.mode or (path in new and entry.owner != (0, 0)):
                raise _differs(path)
            if stat.S_ISLNK(stamp.mode) and files.link_target(entry) != stamp.target:
                raise _differs(path)
            if path in self.files:
                self._compare_content(files.content(entry.inode), path, on_bytes)

    def _compare_content(
        self, chunks: Iterator[bytes], path: str, on_bytes: Callable[[int], None]
    ) -> None:
        with (self.root / path).open("rb") as file:
            for chunk in chunks:
                on_bytes(len(chunk))
                if file.read(len(chunk)) != chunk:
                    raise _differs(path)
            if file.read(1):
                raise _differs(path)


def changes(scratch: Scratch, before: Snapshot, after: Snapshot) -> Changes:
    """Compare two snapshots of a folder that was filled from an image.

    Args:
        scratch: the folder.
        before: its entries before the installation.
        after: its entries now.
    """
    known = {
        (stamp.inode, stamp.changed_ns): scratch.inodes[stamp.inode]
        for stamp in before.values()
        if stat.S_ISREG(stamp.mode)
    }
    folders: list[str] = []
    modes: list[str] = []
    files: list[str] = []
    links: list[str] = []
    linked: dict[str, int] = {}
    again: dict[str, str] = {}
    first: dict[int, str] = {}
    for path, stamp in sorted(after.items()):
        old = before.get(path)
        if stamp == old:
            continue
        kind = stat.S_IFMT(stamp.mode)
        if kind == stat.S_IFDIR:
            same = old is not None and stat.S_ISDIR(old.mode)
            (modes if same else folders).append(path)
        elif kind == stat.S_IFLNK:
            if old is None or old.target != stamp.target:
                links.append(path)
        elif (stamp.inode, stamp.changed_ns) in known:
            linked[path] = known[stamp.inode, stamp.changed_ns]
        elif stamp.inode in first:
            again[path] = first[stamp.inode]
        else:
            first[stamp.inode] = path
            files.append(path)
    written = {*folders, *links, *linked, *again, *files}
    removed = [path for path in before if path in written or path not in after]
    return Changes(
        root=scratch.root,
        folders=tuple(folders),
        modes=tuple(modes),
        linked=linked,
        removed=tuple(sorted(removed, reverse=True)),
        files=tuple(files),
        again=again,
        links=tuple(links),
        after=after,
        gone=frozenset(path for path in removed if stat.S_ISDIR(before[path].mode)),
    )


def _absolute(path: str) -> str:
    return quoted(f"/{path}")


def _differs(path: str) -> FlashError:
    return FlashError(
        f"/{path} differs from what was written",
        hint="Try again; if it happens again, the disk or the card is failing.",
    )
