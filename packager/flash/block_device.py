"""Block devices: which must not be written, and how a card is written so that it can be undone."""

import os
import signal
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from packager import console
from packager.errors import FlashError
from packager.flash.unpacked import data_ranges
from packager.units import gigabytes

CHUNK = 1 << 20
BLOCK = 4096
OWN = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")
"""Mount points whose disks are the host's own."""

_BLKFLSBUF = 0x1261  # linux/fs.h

Range = tuple[int, int]
"""Start and end of a part of a disk, bytes."""


class Machine:
    """The block devices of this machine and their use, as the kernel reports them.

    Attributes:
        sys: the folder `/sys`.
        proc: the folder `/proc`.
    """

    def __init__(self, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self.sys = sys
        self.proc = proc

    def check(self, name: str, device: int) -> None:
        """Refuse a block device that is in use, or is not a whole disk.

        Args:
            name: name of the device, for messages.
            device: its number, `st_rdev`.

        Raises:
            FlashError: it must not be written.
        """
        disk = self._folder(device)
        if (disk / "partition").exists():
            raise FlashError(
                f"{name} is a partition", hint="Pass the whole disk, for instance /dev/sdb."
            )
        if (disk / "ro").read_text().strip() != "0":
            raise FlashError(f"{name} is read-only", hint="Move the lock on the side of the card.")
        used = self._stack(disk)
        for number, point in self._mounts():
            if number in used and point in OWN:
                raise FlashError(
                    f"{name} is the disk of this machine: {point} is on it",
                    hint="Pass the card's device; lsblk lists all of them.",
                )
        for number, point in self._mounts():
            if number in used:
                raise FlashError(
                    f"{name} is in use: it is mounted at {point}",
                    hint=f"Unmount it first: umount {point}",
                )
        if used & set(self._swaps()):
            raise FlashError(f"{name} is in use as swap space", hint="Pass another device.")
        loops = (self.sys / "block").glob("loop*/loop/backing_file")
        if any(used & set(_numbers(loop.read_text().strip())) for loop in loops):
            raise FlashError(f"{name} is in use by a loop device", hint="Detach it: losetup -d.")
        if len(used) > 1 + sum(1 for _ in disk.glob("*/partition")):
            raise FlashError(
                f"{name} is in use by LVM, LUKS or RAID",
                hint="Deactivate what is on it first; lsblk lists it.",
            )

    def _folder(self, device: int) -> Path:
        number = f"{os.major(device)}:{os.minor(device)}"
        return (self.sys / "dev/block" / number).resolve()

    def _stack(self, folder: Path) -> set[int]:
        """Return the numbers of a device, its partitions, and all that is built on these."""
        major, _, minor = (folder / "dev").read_text().strip().partition(":")
        numbers = {os.makedev(int(major), int(minor))}
        for part in folder.glob("*/partition"):
            numbers |= self._stack(part.parent)
        for holder in folder.glob("holders/*"):
            numbers |= self._stack(holder.resolve())
        return numbers

    def _mounts(self) -> Iterator[tuple[int, str]]:
        """Yield the device and the mount point of each mounted file system."""
        for line in (self.proc / "self/mountinfo").read_text().splitlines():
            fields = line.split()
            major, _, minor = fields[2].partition(":")
            yield os.makedev(int(major), int(minor)), fields[4]
            # btrfs has a number of its own there, and its device as the source.
            yield from ((number, fields[4]) for number in _numbers(fields[-2]))

    def _swaps(self) -> Iterator[int]:
        for line in (self.proc / "swaps").read_text().splitlines()[1:]:
            yield from _numbers(line.split()[0])


def _numbers(path: str) -> list[int]:
    """Return the number of a block device in a list; empty for any other path."""
    with suppress(OSError):
        status = Path(path).stat()
        if stat.S_ISBLK(status.st_mode):
            return [status.st_rdev]
    return []


@contextmanager
def opened(name: str, max_size: int, *, yes: bool, writable: bool) -> Iterator[tuple[int, int]]:
    """Open a block device that nobody else uses; yield its descriptor and its size in bytes.

    Args:
        name: path of the device.
        max_size: largest device, bytes.
        yes: write it without asking.
        writable: open it for writing, after asking.

    Raises:
        FlashError: it must not be written, cannot be opened, or the user did not agree.
    """
    Machine().check(name, Path(name).stat().st_rdev)
    try:
        # The kernel refuses this while anything on the disk is mounted, and refuses mounts after.
        flags = os.O_EXCL | (os.O_RDWR if writable else os.O_RDONLY)
        descriptor = os.open(name, flags)
    except OSError as error:
        raise FlashError(
            f"{name} cannot be opened: {error.strerror}",
            hint="Unmount it; if you may not write to it, use sudo or join the group disk.",
        ) from None
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size > max_size:
            raise FlashError(
                f"{name} has {gigabytes(size)}, more than {gigabytes(max_size)}",
                hint="Check that it is the card; if it is, pass --max-size.",
            )
        if writable and not yes:
            _confirm(name, size)
        yield descriptor, size
    finally:
        os.close(descriptor)


def _confirm(name: str, size: int) -> None:
    word = Path(name).name
    question = f"This changes the disk {name} of {gigabytes(size)}. Type {word} to go on:"
    answer = console.ask(question)
    if answer is None:
        raise FlashError(f"{name} is not changed without a question", hint="Pass --yes.")
    if answer.strip() != word:
        raise FlashError("not confirmed; nothing was written", hint=f"Type {word}, or pass --yes.")


def changed(before: int, after: int, size: int) -> tuple[list[Range], list[Range]]:
    """Compare two sparse files of one size.

    Returns:
        What is different: the parts that were holes before, and the others.
    """
    filled = list(data_ranges(before, size))
    new: list[Range] = []
    replaced: list[Range] = []
    for start, end in data_ranges(after, size):
        for place in range(start, end, BLOCK):
            length = min(BLOCK, end - place)
            data = os.pread(after, length, place)
            if data == os.pread(before, length, place):
                continue
            while filled and filled[0][1] <= place:
                del filled[0]
            ranges = replaced if filled and filled[0][0] < place + length else new
            if ranges and ranges[-1][1] == place:
                ranges[-1] = (ranges[-1][0], place + length)
            else:
                ranges.append((place, place + length))
    return new, replaced


def write(
    device: int,
    start: int,
    source: int,
    ranges: tuple[list[Range], list[Range]],
    undo: int,
    on_bytes: Callable[[int], None],
) -> None:
    """Write parts of a file to a device, and compare them; the device is as before on any error.

    The first list is what the device's file system does not use yet: until all of it is on the
    device, a device that is pulled out has its old file system.

    Args:
        device: file descriptor of the device.
        start: offset on the device of the file's first byte.
        source: file descriptor of the file.
        ranges: the parts, from `changed`.
        undo: file descriptor of an empty file for what the device has there now.
        on_bytes: called with the number of bytes written or compared.

    Raises:
        FlashError: the device failed, or does not return what was written.
    """
    unused, used = ranges
    for part in (*unused, *used):
        _copy(device, undo, part, start, 0)
    os.fsync(undo)
    try:
        for parts in (unused, used):
            for part in parts:
                _copy(source, device, part, 0, start, on_bytes)
            os.fsync(device)
        _forget(device)
        for part in (*unused, *used):
            _compare(source, device, part, start, on_bytes)
    except BaseException as error:
        with _uninterrupted():
            _restore(device, start, (*used, *unused), undo)
        if isinstance(error, OSError):
            raise FlashError(
                f"the device failed and has its old contents again: {error.strerror}",
                hint="Use another card or reader.",
            ) from None
        raise


def _restore(device: int, start: int, parts: tuple[Range, ...], undo: int) -> None:
    console.note("Restoring what was on the device ...")
    try:
        for part in parts:
            _copy(undo, device, part, 0, start)
        os.fsync(device)
    except OSError as error:
        raise FlashError(
            f"the device cannot be restored: {error.strerror}",
            hint="Its file system may be damaged: check it with e2fsck -f, or write the system's "
            "image to it again.",
        ) from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C: half of a restored disk is worse than a pause."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _pieces(part: Range) -> Iterator[tuple[int, int]]:
    for place in range(part[0], part[1], CHUNK):
        yield place, min(CHUNK, part[1] - place)


def _copy(
    source: int,
    target: int,
    part: Range,
    source_start: int,
    target_start: int,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Copy a part; its offsets are relative to the starts."""
    for place, length in _pieces(part):
        data = os.pread(source, length, source_start + place)
        written = 0
        while written < len(data):
            written += os.pwrite(target, data[written:], target_start + place + written)
        if on_bytes is not None:
            on_bytes(length)


def _compare(
    source: int, device: int, part: Range, start: int, on_bytes: Callable[[int], None]
) -> None:
    for place, length in _pieces(part):
        if os.pread(device, length, start + place) != os.pread(source, length, place):
            raise FlashError(
                "the card returns other data than was written to it",
                hint="Use another card or reader: this one is failing.",
            )
        on_bytes(length)


def _forget(device: int) -> None:
    """Drop what the kernel remembers of a device, so that the device itself is read."""
    import fcntl  # Windows lacks it, and imports this module

    os.posix_fadvise(device, 0, 0, os.POSIX_FADV_DONTNEED)
    with suppress(OSError):  # root's privilege; the advice does the same for clean pages
        fcntl.ioctl(device, _BLKFLSBUF, struct.pack("i", 0))
