"""Disk images as they are published: plain, or compressed with xz, zstd or zip.

Formats are recognized by their first bytes. Sizes that an archive declares are not trusted, and
names in it are used for nothing.
"""

import errno
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import zstandard

from packager.errors import FlashError
from packager.units import gigabytes

CHUNK = 1 << 20
ZSTD_CHUNK = 2048
BLOCK = 1 << 16
"""Blocks of so many zero bytes become holes."""
MAX_MEMORY = 256 << 20
"""Most memory that a decompressor may use; xz -9 needs 65 MiB, zstd --ultra -22 128 MiB."""

_MAGIC = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
}


_ZEROS = bytes(BLOCK)
_DAMAGED = (lzma.LZMAError, zlib.error, zstandard.ZstdError, zipfile.BadZipFile)


def compression(file: IO[bytes]) -> str | None:
    """Return the compression of an image; None of a plain one."""
    head = os.pread(file.fileno(), 8, 0)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def unpack(source: IO[bytes], output: int, max_bytes: int, on_read: Callable[[int], None]) -> None:
    """Write the image in a compressed file to a new file, with holes for zeros.

    Args:
        source: the compressed file.
        output: file descriptor of an empty file.
        max_bytes: largest image, bytes.
        on_read: called with the number of compressed bytes read since the last call.

    Raises:
        FlashError: the file is damaged, or the image is too large.
    """
    kind = compression(source)
    readers = {"xz": _xz, "zstd": _zstd, "zip": _zip}
    if kind not in readers:
        raise FlashError(
            f"{source.name} is compressed with {kind}, which edgepack does not read",
            hint="Unpack it, and pass the image.",
        )
    size = 0
    read = 0
    try:
        for chunk in readers[kind](source):
            for start in range(0, len(chunk), BLOCK):
                block = chunk[start : start + BLOCK]
                if block != _ZEROS:
                    _write(output, block, size)
                size += len(block)
            if size > max_bytes:
                raise FlashError(
                    f"the image in {source.name} is larger than {gigabytes(max_bytes)}",
                    hint="Pass --max-size if that is right.",
                )
            position = source.tell()
            on_read(max(0, position - read))
            read = position
    except (*_DAMAGED, EOFError) as error:
        raise FlashError(
            f"{source.name} is damaged: {error}", hint="Download the image again."
        ) from None
    os.ftruncate(output, size)


def copy(source: int, output: int, on_bytes: Callable[[int], None]) -> None:
    """Copy a plain image into an empty file, with its holes.

    Args:
        source: file descriptor of the image.
        output: file descriptor of the empty file.
        on_bytes: called with the number of bytes copied since the last call.
    """
    size = os.fstat(source).st_size
    os.ftruncate(output, size)
    for start, end in data_ranges(source, size):
        copy_range(source, output, start, end, 0, on_bytes)


def copy_range(
    source: int,
    output: int,
    start: int,
    end: int,
    shift: int,
    on_bytes: Callable[[int], None] = lambda _size: None,
) -> None:
    """Copy a part of a file to a place in another one.

    Args:
        source: file descriptor of the file to read.
        output: file descriptor of the other one.
        start: offset of the part in the source.
        end: offset of the byte after the part.
        shift: bytes to add to the offsets for those in the output.
        on_bytes: called with the number of bytes copied since the last call.
    """
    while start < end:
        length = min(end - start, 16 << 20)
        try:
            count = os.copy_file_range(source, output, length, start, start + shift)
        except OSError:  # two file systems that do not copy to each other
            data = os.pread(source, length, start)
            _write(output, data, start + shift)
            count = len(data)
        if count == 0:
            raise OSError(errno.EIO, "it became shorter while it was copied")
        start += count
        on_bytes(count)


def data_ranges(descriptor: int, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of a file, from a place on, that are not holes."""
    end = start
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < end:
            yield start, end


def _write(output: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(output, data, offset)
        data = data[written:]
        offset += written


def _xz(source: IO[bytes]) -> Iterator[bytes]:
    source.seek(0)
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
    pending = b""
    while True:
        if decompressor.eof:
            # Several streams in one file, as pixz and `cat` make them, with padding between.
            pending = decompressor.unused_data.lstrip(b"\0") or source.read(CHUNK).lstrip(b"\0")
            if not pending:
                return
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
        elif decompressor.needs_input:
            pending = source.read(CHUNK)
            if not pending:
                raise EOFError("it is truncated")
        yield decompressor.decompress(pending, CHUNK)
        pending = b""


def _zstd(source: IO[bytes]) -> Iterator[bytes]:
    source.seek(0)
    limits = zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY // 2)
    frame = limits.decompressobj()
    pending = b""
    # Four bytes can stand for 128 KiB: short reads bound what comes out at a time.
    while pending := pending or source.read(ZSTD_CHUNK):
        if frame.eof:
            frame = limits.decompressobj()
        yield frame.decompress(pending)
        pending = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("it is truncated")


def _zip(source: IO[bytes]) -> Iterator[bytes]:
    with zipfile.ZipFile(source) as archive:
        images = [info for info in archive.infolist() if info.filename.endswith(".img")]
        if len(images) != 1 or images[0].flag_bits & 1:
            raise FlashError(
                f"{source.name} has {len(images)} images; expected one that is not encrypted",
                hint="Unpack it, and pass the image.",
            )
        try:
            with archive.open(images[0]) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
        except NotImplementedError as error:
            raise zipfile.BadZipFile(str(error)) from None
