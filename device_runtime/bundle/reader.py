"""Open, verify and unpack a bundle (`.epk`). Every byte is untrusted until its digest matches.

The order of checks, for a bundle from any source:

1. each member's tar header is, bit for bit, the one header this format has for that name and
   size: plain file, owner 0, no times, no links, no devices, no extensions;
2. the member is the one expected at that position (`manifest.py` has the order), so none is
   missing, extra or duplicate;
3. the format marker, then the manifest, which has the marker's digest (`manifest.decode` lists its
   rules);
4. the SBOM's digest;
5. each blob: length, then digest of the stored bytes, then, only from bytes already checked,
   decompression with a bound, then length and digest of the content;
6. nothing follows the end.

Data is hashed while it is copied, and only the copy is used afterwards: changing the file during
or after the check has no effect.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.fields import Sha256
from device_runtime.bundle.manifest import DAMAGED, Blob
from device_runtime.bundle.release import CHUNK, MAX_SBOM_BYTES
from device_runtime.bundle.source import MAX_SIGNATURE_BYTES, Source
from device_runtime.errors import BundleError

BLOCK = 512

UPDATE_MARKER_NAME = "edgepack-delta"
"""First member of an update, which `delta.py` reads."""


def member_header(name: str, size: int) -> bytes:
    """Create the tar header of a member: POSIX.1-1988 ustar, 512 bytes, without owner or times."""
    header = bytearray(BLOCK)
    header[0 : len(name)] = name.encode("ascii")
    header[100:136] = b"0000644\x000000000\x000000000\x00" + b"%011o\x00" % size
    header[136:148] = b"00000000000\x00"
    header[148:157] = b"        0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def padding(size: int) -> bytes:
    """Return the zero bytes between a member of a size and the next header."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)


class Bundle(Source):
    """An open bundle file: its head has been read and checked, its data has not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        digest = self._read_marker()
        manifest_bytes = self._small(schema.MANIFEST_NAME, schema.MAX_MANIFEST_BYTES)
        if hashlib.sha256(manifest_bytes).hexdigest() != digest:
            raise BundleError("the manifest does not match the format marker", hint=DAMAGED)
        signature = self._small(schema.SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
        sbom = self._small(schema.SBOM_NAME, MAX_SBOM_BYTES)
        super().__init__(manifest_bytes=manifest_bytes, signature=signature, sbom=sbom)
        self._offsets: dict[str, int] = {}
        members = self._data_members()
        position = file.tell()
        for name, size in members:
            self._offsets[name] = position
            position += BLOCK + size + len(padding(size))
        self._end = position

    def _read_marker(self) -> Sha256:
        """Read the first member; return the digest of the manifest."""
        return schema.read_marker(self._small(schema.MARKER_NAME, schema.MARKER_BYTES + 16))

    def _data_members(self) -> list[tuple[str, int]]:
        """List the members after the SBOM, in their order: name and size."""
        blobs = self.manifest.blobs.values()
        return [(schema.BLOB_PREFIX + blob.sha256, blob.size) for blob in blobs]

    def chunks(self, blob: Blob) -> Iterator[bytes]:
        """Read the stored bytes of a blob; see `Source.chunks`."""
        return self._data(schema.BLOB_PREFIX + blob.sha256, blob.size)

    def _data(self, name: str, expected: int) -> Iterator[bytes]:
        """Read a member after the SBOM, which must have the expected size."""
        self._file.seek(self._offsets[name])
        size = self._member(name)
        if size != expected:
            raise BundleError(
                f"{name} is stored with {size} bytes instead of {expected}", hint=DAMAGED
            )
        yield from self._chunks(size)

    def check_rest(self) -> None:
        """Check that the bundle ends after its last blob."""
        self._file.seek(self._end)
        if self._read(len(END)) != END or self._file.read(1):
            raise BundleError("trailing data after the end of the bundle", hint=DAMAGED)

    def _small(self, name: str, limit: int) -> bytes:
        size = self._member(name)
        if size > limit:
            raise BundleError(f"{name} is larger than {limit} bytes", hint=DAMAGED)
        return b"".join(self._chunks(size))

    def _member(self, expected: str) -> int:
        """Read the header of the next member, which must be the expected one; return its size."""
        header = self._read(BLOCK)
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
        except ValueError:
            size = -1
        if name != expected:
            if name == UPDATE_MARKER_NAME:
                raise BundleError(
                    "this is an update: only a device that has the older release can read it",
                    hint="Use the complete bundle here.",
                )
            shown = repr(name) if name else "the end"
            marker = expected == schema.MARKER_NAME
            problem = "not an edgepack bundle" if marker else "the bundle is damaged"
            raise BundleError(f"{problem}: expected {expected}, found {shown}", hint=DAMAGED)
        if size < 0 or header != member_header(name, size):
            raise BundleError(
                f"{expected} is not stored as a plain file of this format", hint=DAMAGED
            )
        return size

    def _chunks(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
        pad = padding(size)
        if self._read(len(pad)) != pad:
            raise BundleError("non-zero padding after a member", hint=DAMAGED)

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise BundleError(
                f"the bundle cannot be read: {error.strerror}", hint=DAMAGED
            ) from None
        if len(data) != size:
            raise BundleError("the bundle is truncated", hint=DAMAGED)
        return data


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open the file of a bundle; nothing in it is checked.

    Raises:
        BundleError: it cannot be opened.
    """
    hint = "Give the path of a .epk file."
    try:
        # Not blocking: a pipe would keep the program until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise BundleError(f"{path} cannot be opened: {error.strerror}", hint=hint) from None
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{path} is a folder, a pipe or a device, not a file", hint=hint)
        yield stack.enter_context(open(descriptor, "rb", closefd=False))


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check its head.

    Raises:
        BundleError: it is missing, not a bundle, damaged, or of another format version.
    """
    with open_file(path) as file:
        yield Bundle(file)
