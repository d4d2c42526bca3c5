"""An ext4 file system inside a disk or an image, through e2fsprogs: no mount, no root.

The programs get the disk as an open descriptor (`/proc/self/fd/N`): its name does not matter, and
it cannot be exchanged while they work.
"""

import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.errors import FlashError
from packager.run import Program

ROOT_INODE = 2
SYSTEM_FOLDERS = "/usr/sbin:/sbin"
"""Folders of administration programs, which ordinary users often do not have on their PATH."""

MAX_LINE = 4096
"""Longest line of a script; debugfs reads up to 8191 bytes at a time."""
CHUNK = 1 << 20

_ENTRY = re.compile(rb"/(\d+)/([0-7]{6})/(\d+)/(\d+)/([^/]+)/(\d*)/")
_BANNER = re.compile(rb"debugfs \d")
_UNCLEAN = b"? no"
"""Ending of each question that e2fsck -n answers by itself, also where its status is 0."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a folder.

    Attributes:
        inode: number of its inode.
        mode: kind and permissions, as in `st_mode`.
        owner: its user and group.
        size: length of a file's content or of a link's target, bytes; 0 for a folder.
    """

    inode: int
    mode: int
    owner: tuple[int, int]
    size: int


@dataclass(frozen=True, kw_only=True)
class Superblock:
    """Facts from a superblock (linux/Documentation/filesystems/ext4/super.rst).

    Attributes:
        block_size: bytes of a block.
        blocks: number of blocks.
        free_blocks: number of blocks that are not in use.
        free_inodes: number of inodes that are not in use.
        journal_is_empty: false after a power cut, until the file system is mounted again.
    """

    block_size: int
    blocks: int
    free_blocks: int
    free_inodes: int
    journal_is_empty: bool


def read_superblock(descriptor: int, start: int, size: int) -> Superblock | None:
    """Read the superblock of a partition; None if there is no ext4 file system.

    Args:
        descriptor: file descriptor of the disk.
        start: offset of the partition, bytes.
        size: length of the partition, bytes.
    """
    data = os.pread(descriptor, 1024, start + 1024)
    if size < 2048 or len(data) < 1024 or data[0x38:0x3A] != b"\x53\xef":
        return None
    (blocks,) = struct.unpack_from("<I", data, 4)
    free_blocks, free_inodes = struct.unpack_from("<II", data, 12)
    (log_block_size,) = struct.unpack_from("<I", data, 0x18)
    (incompatible,) = struct.unpack_from("<I", data, 0x60)
    if incompatible & 0x80:  # 64bit
        blocks += struct.unpack_from("<I", data, 0x150)[0] << 32
        free_blocks += struct.unpack_from("<I", data, 0x158)[0] << 32
    if log_block_size > 6 or not 0 < blocks << (10 + log_block_size) <= size:
        return None
    return Superblock(
        block_size=1024 << log_block_size,
        blocks=blocks,
        free_blocks=free_blocks,
        free_inodes=free_inodes,
        journal_is_empty=not incompatible & 0x4,
    )


class FileSystem:
    """An ext4 file system.

    Attributes:
        superblock: its superblock, read at each use.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        """Take the place of a file system that `read_superblock` reads.

        Args:
            descriptor: file descriptor of the disk.
            start: offset of the partition, bytes.
            size: length of the partition, bytes.
        """
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._address = f"/proc/self/fd/{descriptor}?offset={start}"

    @property
    def superblock(self) -> Superblock:
        """The superblock as it is now."""
        superblock = read_superblock(self._descriptor, self._start, self._size)
        if superblock is None:
            raise FlashError("the file system has no superblock", hint=DAMAGED)
        return superblock

    def check(self) -> None:
        """Check the whole file system and change nothing.

        Raises:
            FlashError: it is not clean.
        """
        if not self.superblock.journal_is_empty:
            raise FlashError(
                "the root file system was not unmounted: its journal is not empty",
                hint="Boot the device once and shut it down, or download the image again.",
            )
        status, output, errors = self._run("e2fsck", "-f", "-n", self._address)
        if status != 0 or _UNCLEAN in output:
            lines = (errors + output).decode(errors="replace").splitlines()
            first = next((line for line in lines if _is_problem(line)), "")
            raise FlashError(f"the root file system is damaged: {first.strip()}", hint=DAMAGED)

    def entries(self, folder: int) -> dict[str, Entry]:
        """List a folder by its inode; names that are not printable are left out."""
        _, output, _ = self._run("debugfs", "-R", f"ls -p <{folder}>", self._address)
        entries = {}
        for line in output.split(b"\n"):
            match = _ENTRY.fullmatch(line)
            name = os.fsdecode(match[5]) if match else ""
            if match and name.isprintable() and name not in (".", "..") and match[1] != b"0":
                entries[name] = Entry(
                    inode=int(match[1]),
                    mode=int(match[2], 8),
                    owner=(int(match[3]), int(match[4])),
                    size=int(match[6] or b"0"),
                )
        return entries

    def link_target(self, link: Entry) -> str | None:
        """Read the target of a symbolic link; None if it cannot be read."""
        if not 0 < link.size < 4096:
            return None
        if link.size < 60:  # in the inode itself
            _, output, _ = self._run("debugfs", "-R", f"stat <{link.inode}>", self._address)
            _, _, after = output.partition(b'\nFast link dest: "')
            target = after[: link.size]
        else:
            target = b"".join(self.content(link.inode))
        return os.fsdecode(target) if len(target) == link.size and b"\0" not in target else None

    def content(self, inode: int) -> Iterator[bytes]:
        """Read a file in chunks."""
        with self._program("debugfs", "-R", f"cat <{inode}>", self._address) as program:
            assert program.stdout is not None
            while chunk := program.stdout.read(CHUNK):
                yield chunk

    def link_counts(self, inodes: Collection[int]) -> dict[int, int]:
        """Return the numbers of hard links of files by their inodes.

        Raises:
            FlashError: one of them cannot be read.
        """
        with _script(f"stat <{inode}>" for inode in inodes) as script:
            _, output, _ = self._run("debugfs", "-f", script, self._address)
        pattern = rb"^debugfs: stat <(\d+)>\nInode: \1 (?:.*\n){1,6}?Links: (\d+) "
        counts = {int(m[1]): int(m[2]) for m in re.finditer(pattern, output, re.MULTILINE)}
        if len(counts) != len(inodes):
            raise FlashError("an inode cannot be read", hint=DAMAGED)
        return counts

    def dump(
        self, files: Mapping[int, Path], folder: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Copy files out of the file system.

        Args:
            files: new path of the copy by inode.
            folder: an existing folder for temporary files, on the same disk as the copies.
            on_bytes: called with the size of each file.

        Raises:
            FlashError: a file cannot be read.
        """
        paths = iter(files.items())

        def on_command(_command: str) -> None:
            inode, path = next(paths)
            copy = folder / f"copy-{inode}"
            on_bytes(copy.stat().st_size)
            copy.rename(path)

        self._debugfs([f"dump <{inode}> copy-{inode}" for inode in files], folder, on_command)

    def change(
        self, script: Sequence[str], folder: Path, on_command: Callable[[str], None]
    ) -> None:
        """Run commands of debugfs that change the file system.

        Args:
            script: the commands; `quoted` makes their arguments.
            folder: working folder: local files are named from there.
            on_command: called with each command after it.

        Raises:
            FlashError: a command failed.
        """
        self._debugfs(script, folder, on_command, "-w")

    def resize(self, size: int) -> None:
        """Enlarge the file system, which must be at the start of its file.

        Args:
            size: new size, bytes.

        Raises:
            FlashError: it cannot be enlarged.
        """
        status, output, errors = self._run("resize2fs", "-f", self._address, f"{size // 512}s")
        if status != 0:
            raise _failure("resize2fs", errors + output)

    def copy_metadata(self, copy: int) -> None:
        """Copy all but the contents of files into an empty, sparse file.

        Args:
            copy: file descriptor of the empty file.

        Raises:
            FlashError: the file system cannot be read.
        """
        arguments = ("-r", "-o", str(self._start), f"/proc/self/fd/{self._descriptor}")
        status, output, errors = self._run(
            "e2image", *arguments, f"/proc/self/fd/{copy}", others=(copy,)
        )
        if status != 0:
            raise _failure("e2image", errors + output)

    def _debugfs(
        self, script: Sequence[str], folder: Path, on_command: Callable[[str], None], *options: str
    ) -> None:
        """Run a script; debugfs echoes each command before it, and reports failures on stderr."""
        with (
            _script(script) as path,
            tempfile.TemporaryFile() as errors,
            self._program(
                "debugfs",
                *(*options, "-f", path, self._address),
                folder=folder,
                stderr=errors.fileno(),
            ) as program,
        ):
            assert program.stdout is not None
            begun = -1
            for line in program.stdout:
                if line.startswith(b"debugfs: "):
                    if begun >= 0:
                        on_command(script[begun])
                    begun += 1
            status = program.wait()
            errors.seek(0)
            lines = errors.read().splitlines()
            problems = [line for line in lines if not _BANNER.match(line)]
            if status != 0 or any(problems) or begun != len(script) - 1:
                raise _failure("debugfs", b"\n".join(problems))
        if script:
            on_command(script[-1])

    def _run(
        self, name: str, *arguments: str, folder: Path | None = None, others: tuple[int, ...] = ()
    ) -> tuple[int, bytes, bytes]:
        with self._program(
            name, *arguments, folder=folder, others=others, stderr=subprocess.PIPE
        ) as program:
            output, errors = program.communicate()
        if b"unsupported feature" in output + errors:
            raise FlashError(
                "the root file system has features that this machine's e2fsprogs does not know",
                hint="Install a newer e2fsprogs; Debian 13 and Ubuntu 24.04 have 1.47.",
            )
        return program.returncode, output, errors

    def _program(
        self,
        name: str,
        *arguments: str,
        folder: Path | None = None,
        others: tuple[int, ...] = (),
        stderr: int = subprocess.DEVNULL,
    ) -> Program:
        return Program(
            [tool(name), *arguments],
            what="Reading the file system",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "LC_ALL": "C"},
            cwd=folder,
            pass_fds=(self._descriptor, *others),
        )


@contextmanager
def _script(commands: Iterable[str]) -> Iterator[str]:
    """Write commands to a temporary file and yield its path."""
    with tempfile.NamedTemporaryFile() as file:
        file.writelines(os.fsencode(command) + b"\n" for command in commands)
        file.flush()
        yield file.name


DAMAGED = "Download the image again; repair a card with e2fsck -f."


def check_programs() -> None:
    """Check that the programs of e2fsprogs are installed.

    Raises:
        FlashError: one of them is missing.
    """
    for name in ("debugfs", "e2fsck", "e2image", "resize2fs"):
        tool(name)


def tool(name: str) -> str:
    """Return the path of a program of e2fsprogs.

    Raises:
        FlashError: it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}")
    if path is None:
        raise FlashError(
            f"{name} is missing: disk images are read and written with e2fsprogs",
            hint="Install it: apt-get install e2fsprogs, or dnf install e2fsprogs.",
        )
    return path


def quoted(text: str) -> str:
    """Quote an argument for a script of debugfs: a quote inside of quotes is doubled.

    Raises:
        FlashError: the argument cannot be part of a line.
    """
    if not text.isprintable() or len(os.fsencode(text)) > MAX_LINE // 2:
        raise FlashError(
            f"the name {text[:80]!r} cannot be written into an image",
            hint="Rename the file, or mount the image and flash the folder.",
        )
    return '"' + text.replace('"', '""') + '"'


def is_folder(entry: Entry | None) -> bool:
    """Return whether an entry is a folder."""
    return entry is not None and stat.S_ISDIR(entry.mode)


def _is_problem(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("e2fsck ", "Pass ", "/proc/self/fd"))


def _failure(program: str, output: bytes) -> FlashError:
    lines = output.decode(errors="replace").strip().splitlines() or ["it failed without a message"]
    return FlashError(f"{program}: {lines[-1].strip()}", hint=DAMAGED)
