"""Changes to a folder that survive a power cut.

A file system may write names and contents to the disk in any order, seconds late. So contents are
flushed before a name points to them, and the folder that holds the name after that.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

_EXCHANGE = 2
"""RENAME_EXCHANGE of linux/fs.h."""
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


class Folder:
    """An open folder. Names are looked up in it by its descriptor; links are never followed.

    Attributes:
        path: path of the folder, for messages and for code that takes paths.
        descriptor: file descriptor of the folder.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def sync(self) -> None:
        """Make the names in the folder survive a power cut."""
        os.fsync(self.descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """Return the status of an entry (of a link itself); None if there is no such entry."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """List the entries of the folder."""
        with os.scandir(self.descriptor) as entries:
            return [entry.name for entry in entries]

    def file(self, name: str, *, make: bool = False) -> IO[bytes]:
        """Open a plain file: for reading, or, created if missing, for reading and writing.

        Raises:
            OSError: it is missing, or not a plain file but a link, a pipe or a device.
        """
        entry = self.stat(name)
        if entry is not None and not stat.S_ISREG(entry.st_mode):
            raise OSError(errno.EINVAL, f"{self.path / name} is not a plain file")
        flags = os.O_RDWR | os.O_CREAT if make else os.O_RDONLY
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        return os.fdopen(descriptor, "r+b" if make else "rb")

    def folder(self, name: str, *, make: bool = False) -> "Folder":
        """Open a folder in this one, or create it if `make` says so; a link is an error."""
        if make and self.stat(name) is None:
            return self.make_folder(name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        return Folder(self.path / name, os.open(name, flags, dir_fd=self.descriptor))

    def make_folder(self, name: str) -> "Folder":
        """Create a folder that every user may read, whatever the umask, and open it."""
        os.mkdir(name, 0o755, dir_fd=self.descriptor)
        folder = self.folder(name)
        os.fchmod(folder.descriptor, 0o755)
        folder.sync()
        self.sync()
        return folder

    @contextmanager
    def written_aside(self, name: str, mode: int = 0o644) -> Iterator[IO[bytes]]:
        """Open a new file that takes its name when the block ends without an error.

        Args:
            name: the file's name; an existing entry of that name is replaced.
            mode: permission bits, less the umask.
        """
        aside = aside_name(name)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        descriptor = os.open(aside, flags, mode, dir_fd=self.descriptor)
        try:
            # Opened by descriptor, but with its path as name: some blocks read the file again.
            with open(self.path / aside, "wb", opener=lambda *_: descriptor) as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            self.rename(aside, name)
        except BaseException:
            with suppress(OSError):
                self.remove(aside)
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file that every user may read, whatever the umask."""
        with self.written_aside(name) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)

    def link(self, name: str, target: str) -> None:
        """Point a link to a target atomically: the link exists at every moment."""
        aside = aside_name(name)
        os.symlink(target, aside, dir_fd=self.descriptor)
        try:
            self.rename(aside, name)
        except OSError:
            self.remove(aside)
            raise

    def rename(self, name: str, new: str) -> None:
        """Rename an entry of the folder; an existing entry of the new name is replaced."""
        os.rename(name, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        self.sync()

    def exchange(self, name: str, other: str) -> None:
        """Exchange two entries of the folder: both names exist at every moment.

        File systems that cannot do it (NFS, say) leave `other` without an entry for a moment.
        """
        old, new = os.fsencode(name), os.fsencode(other)
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is None or rename(self.descriptor, old, self.descriptor, new, _EXCHANGE):
            if rename is not None and ctypes.get_errno() not in _NOT_SUPPORTED:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
            spare = aside_name(name)
            self.rename(other, spare)
            self.rename(name, other)
            self.rename(spare, name)
        self.sync()

    def remove(self, name: str) -> None:
        """Remove an entry and everything in it; of a link, the link itself."""
        entry = self.stat(name)
        if entry is not None and stat.S_ISDIR(entry.st_mode):
            shutil.rmtree(name, dir_fd=self.descriptor)
        else:
            os.unlink(name, dir_fd=self.descriptor)
        self.sync()

    def sweep(self, names: str) -> None:
        """Remove what interrupted changes to entries left behind under names from `aside_name`.

        Args:
            names: regular expression for the first 40 characters of the entries' own names.
        """
        leftover = re.compile(rf"\.({names})\.[0-9a-f]{{16}}")
        for name in self.names():
            if leftover.fullmatch(name):
                self.remove(name)


def open_folder(path: Path) -> Folder:
    """Open a folder by its path; links in the path are followed."""
    return Folder(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY))


@contextmanager
def written_aside(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    Args:
        path: path of the new file; a link there is replaced, not followed.
        mode: permission bits, less the umask.

    Raises:
        OSError: the folder cannot be written to, or its disk is full.
    """
    if os.open in os.supports_dir_fd:
        with open_folder(path.parent) as folder, folder.written_aside(path.name, mode) as file:
            yield file
        return
    # A host with Windows: its folders cannot be opened, and its files have no modes.
    aside = path.with_name(aside_name(path.name))
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def aside_name(name: str) -> str:
    """Create a hidden temporary name for an entry that nobody can predict.

    It stays within the 255 bytes of a file name, whatever the length of the entry's own name.
    """
    return f".{name[:40]}.{secrets.token_hex(8)}"
