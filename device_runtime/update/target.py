"""The root file system of a device: this device's own, or a mounted one.

A mounted one may be hostile, and a link that is valid on the device may lead anywhere on this
machine: on a card, `/var -> /data/var` means the card's own `/data`. So every path is resolved
below the root, name by name from its descriptor, including the last name.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from device_runtime.durable import Folder, open_folder
from device_runtime.errors import InstallError
from device_runtime.memory import parse_meminfo

MAX_LINKS = 40
"""Links that are followed in one path; Linux has the same limit (path_resolution(7))."""
MAX_LIBRARY_BYTES = 64 << 20

# e_machine of an ELF header, as the ELF specification numbers them.
ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64", 0x28: "armv7l", 0x03: "i686", 0xF3: "riscv64"}
# Titles of the features of a processor in /proc/cpuinfo, by architecture.
CPU_TITLES = {"x86_64": b"flags", "aarch64": b"Features"}
# Every Linux root has at least one of these programs.
PROBES = ("usr/bin/env", "bin/sh", "sbin/init", "usr/bin/ls", "bin/busybox")
C_LIBRARIES = ("lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu", "lib64", "lib")
"""Folders in which distributions have the C library."""


class Target:
    """A root file system.

    Attributes:
        root: its root folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, path: str, *, make: bool = False) -> Folder:
        """Open a folder.

        Args:
            path: path of the folder on the target.
            make: create the folder and its parents if they are missing.

        Raises:
            InstallError: the links in the path form a loop.
            OSError: it is missing, or not a folder.
        """
        with self._walk(path) as (base, rest), ExitStack() as opened:
            for name in rest:
                base = opened.enter_context(base.folder(name, make=make))
            return base.folder(".")

    def file(self, path: str) -> IO[bytes]:
        """Open a plain file for reading.

        Raises:
            InstallError: the links in the path form a loop.
            OSError: it is missing, or not a plain file.
        """
        with self._walk(path) as (around, rest):
            if len(rest) != 1:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return around.file(rest[0])

    def read(self, path: str, limit: int) -> bytes | None:
        """Read a plain file up to a number of bytes; None if there is no readable one.

        Raises:
            InstallError: the links in the path form a loop.
        """
        try:
            with self.file(path) as file:
                return file.read(limit)
        except OSError:
            return None

    def settings(self, path: str, limit: int) -> str:
        """Read a small text file that an administrator may have written; empty if it is missing.

        Raises:
            InstallError: it cannot be read, is longer than `limit` bytes, or is not UTF-8.
        """
        try:
            with self.file(path) as file:
                data = file.read(limit + 1)
            if len(data) > limit:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return data.decode()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InstallError(
                f"{self.root / path} cannot be read: {reason}", hint="Correct or remove that file."
            ) from None

    def free_bytes(self, path: str) -> int:
        """Return the free space on the disk of a path, which need not exist yet."""
        with self._walk(path) as (base, _):
            disk = os.statvfs(base.descriptor)
        return disk.f_bavail * disk.f_frsize

    @property
    def is_system(self) -> bool:
        """True if the root has the files that every Linux system has."""
        try:
            for path in ("etc", "usr"):
                self.folder(path).close()
        except OSError:
            return False
        names = ("etc/os-release", "usr/lib/os-release")
        return any(self.read(name, 1) is not None for name in names)

    @property
    def machine(self) -> str | None:
        """Architecture as `uname -m` reports it, from a program's ELF header."""
        for name in PROBES:
            header = self.read(name, 20)
            if header is not None and header.startswith(b"\x7fELF"):
                return ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
        return None

    @property
    def glibc(self) -> str | None:
        """Version of the GNU C library, `2.36`; None if there is none."""
        for folder in C_LIBRARIES:
            library = self.read(f"{folder}/libc.so.6", MAX_LIBRARY_BYTES)
            if library is not None:
                version = re.search(rb"GNU C Library .{0,80}?version (\d+\.\d+)", library)
                return version[1].decode() if version else None
        return None

    @property
    def board(self) -> tuple[str, ...] | None:
        """Names of the board in its device tree, most specific first; empty if it has no tree.

        None if the board is not known: only a running system has /proc, and a disk that is mounted
        elsewhere may end up in any board.
        """
        tree = self.read("proc/device-tree/compatible", 4096)
        if tree is None:
            return None if self.read("proc/version", 1) is None else ()
        names = tree.decode("ascii", "replace").split("\0")
        return tuple(name for name in names if name and name.isprintable())

    @property
    def processor(self) -> frozenset[str] | None:
        """Features of the processor, as /proc/cpuinfo names them; None if they are not known.

        An emulated system may show the file of the machine below it, which has another title.
        """
        text = self.read("proc/cpuinfo", 64 << 10) or b""
        title = CPU_TITLES.get(self.machine or "", b"-")
        line = re.search(rb"^%s\s*:(.*)$" % title, text, re.MULTILINE)
        return frozenset(line[1].decode("ascii", "replace").split()) if line else None

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the machine, bytes; None if it is not known."""
        text = self.read("proc/meminfo", 64 << 10) or b""
        try:
            return parse_meminfo(text.decode("ascii", "replace"))[0]
        except KeyError:
            return None

    @contextmanager
    def _walk(self, path: str) -> Iterator[tuple[Folder, list[str]]]:
        """Resolve a path, including its last name.

        Yields:
            The deepest folder that exists, and the remaining names below it: those of missing
            folders, then the last name of the path.

        Raises:
            InstallError: the links in the path form a loop.
        """
        folders = [open_folder(self.root)]
        left = path.split("/")[::-1]
        rest: list[str] = []
        links = 0
        try:
            while left:
                name = left.pop()
                if name in ("", "."):
                    continue
                if name == "..":
                    if rest:
                        rest.pop()
                    elif len(folders) > 1:
                        folders.pop().close()
                    continue
                entry = None if rest else folders[-1].stat(name)
                if entry is not None and stat.S_ISLNK(entry.st_mode):
                    links += 1
                    if links > MAX_LINKS:
                        raise InstallError(
                            f"symlink loop at {path} below {self.root}",
                            hint="Remove one of the links.",
                        )
                    target = os.readlink(name, dir_fd=folders[-1].descriptor)
                    while target.startswith("/") and len(folders) > 1:
                        folders.pop().close()
                    left += target.split("/")[::-1]
                elif entry is not None and left:
                    folders.append(folders[-1].folder(name))
                else:
                    rest.append(name)
            yield folders[-1], rest
        finally:
            for folder in folders:
                folder.close()
