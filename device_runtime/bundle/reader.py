"""Open, verify and unpack a bundle (`.epk`). Every byte is untrusted until its digest matches.

The order of checks, for a bundle from any source:

1. each member's tar header is, bit for bit, the one header this format has for that name and
   size: plain file, owner 0, no times, no links, no devices, no extensions;
2. the member is the one expected at that position (`manifest.py` has the order), so none is
   missing, extra or duplicate;
3. the format marker, then the manifest (`manifest.decode` lists its rules);
4. the SBOM's digest;
5. each blob: length, then digest of the stored bytes, then, only from bytes already checked,
   decompression with a bound, then length and digest of the content;
6. nothing follows the end.

Data is hashed while it is copied, and only the copy is used afterwards: changing the file during
or after the check has no effect.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, BinaryIO

import zstandard

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import DAMAGED, Manifest, Record
from device_runtime.bundle.release import (
    CHUNK,
    MAX_SBOM_BYTES,
    OnBytes,
    Release,
    agrees,
    disk_error,
    file_chunks,
)
from device_runtime.errors import BundleError

BLOCK = 512
MAX_MEMBER = 8**11 - 1
"""Largest member that a ustar header can describe, bytes (8 GiB - 1)."""


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


class Bundle:
    """An open bundle: its head has been read and checked, its data has not.

    Attributes:
        manifest: the checked manifest.
        manifest_bytes: the manifest as it is stored.
        digest: sha256 of the manifest's bytes; names the release.
        signature: stored signature; empty in an unsigned bundle.
        sbom: SBOM as CycloneDX JSON.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        marker = self._small(schema.MARKER_NAME, len(schema.MARKER) + 16)
        _check_marker(marker)
        self.manifest_bytes = self._small(schema.MANIFEST_NAME, schema.MAX_MANIFEST_BYTES)
        self.manifest: Manifest = schema.decode(self.manifest_bytes)
        self.digest = hashlib.sha256(self.manifest_bytes).hexdigest()
        self.signature = self._small(schema.SIGNATURE_NAME, 64 << 10)
        self.sbom = self._small(schema.SBOM_NAME, MAX_SBOM_BYTES)
        if not agrees(self.sbom, self.manifest.sbom):
            raise BundleError("the SBOM does not match the manifest", hint=DAMAGED)

    def verify(self, on_bytes: OnBytes | None = None) -> None:
        """Check all data without writing it anywhere.

        Raises:
            BundleError: the data is damaged.
        """
        self._copy_blobs(None, on_bytes)

    def unpack(self, folder: Path, on_bytes: OnBytes | None = None) -> "Release":
        """Check all data and write the release into an empty folder that nobody else writes to.

        The files are flushed to disk; the caller flushes the folders, or removes them on failure.

        Raises:
            BundleError: the bundle is damaged.
            ResourceError: the disk is full.
        """
        try:
            self._copy_blobs(folder, on_bytes)
            for record in self.manifest.records:
                if record.link is not None:
                    link = folder / record.path
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(record.link)
            for name, data in (
                (schema.SBOM_NAME, self.sbom),
                (schema.SIGNATURE_NAME, self.signature),
                (schema.MANIFEST_NAME, self.manifest_bytes),
            ):
                with _create(folder / name, 0o644) as target:
                    target.write(data)
        except OSError as error:
            raise disk_error(error, folder) from None
        return Release(folder=folder, manifest=self.manifest, digest=self.digest)

    def _copy_blobs(self, folder: Path | None, on_bytes: OnBytes | None) -> None:
        """Read all blobs in order, check them, and write their content below a folder if given."""
        records: dict[str, list[Record]] = {}
        for record in self.manifest.records:
            if record.blob is not None:
                records.setdefault(record.blob.sha256, []).append(record)
        for digest, blob in self.manifest.blobs.items():
            first, *others = records[digest]
            size = self._member(schema.BLOB_PREFIX + digest)
            if size != blob.size:
                raise BundleError(
                    f"{first.path} is stored with {size} bytes instead of {blob.size}", hint=DAMAGED
                )
            chunks = self._chunks(size, on_bytes)
            if blob.compression == "zstd":
                with tempfile.TemporaryFile(dir=folder) as stored:
                    _store_checked(chunks, digest, first, stored)
                    _write_checked(_decompress(stored, first), first, folder)
            else:
                _write_checked(chunks, first, folder)
            if folder is not None:
                for record in others:
                    _write_checked(file_chunks(folder / first.path), record, folder)
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
            shown = repr(name) if name else "the end"
            marker = expected == schema.MARKER_NAME
            problem = "not an edgepack bundle" if marker else "the bundle is damaged"
            raise BundleError(f"{problem}: expected {expected}, found {shown}", hint=DAMAGED)
        if size < 0 or header != member_header(name, size):
            raise BundleError(
                f"{expected} is not stored as a plain file of this format", hint=DAMAGED
            )
        return size

    def _chunks(self, size: int, on_bytes: OnBytes | None = None) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._read(min(CHUNK, left))
            left -= len(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
            yield chunk
        pad = padding(size)
        if self._read(len(pad)) != pad:
            raise BundleError("non-zero padding after a member", hint=DAMAGED)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise BundleError("the bundle is truncated", hint=DAMAGED)
        return data


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check its head.

    Raises:
        BundleError: it is missing, not a bundle, damaged, or of another format version.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be opened: {error.strerror}", hint="Give the path of a .epk file."
        ) from None
    with file:
        yield Bundle(file)


def _check_marker(marker: bytes) -> None:
    name, _, version = marker.decode("ascii", "replace").strip().partition(" ")
    if name != schema.MARKER_NAME or not version.isdecimal():
        raise BundleError("not an edgepack bundle: its format marker is wrong", hint=DAMAGED)
    schema.check_format(int(version))
    if marker != schema.MARKER:
        raise BundleError("the format marker is damaged", hint=DAMAGED)


@contextmanager
def _create(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Open a new file, flushed to disk at the end; an existing file or link is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
    os.fchmod(descriptor, mode)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


def _store_checked(chunks: Iterator[bytes], digest: str, record: Record, copy: IO[bytes]) -> None:
    """Copy stored bytes to a temporary file, so that the decompressor gets checked bytes only."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        copy.write(chunk)
    if hasher.hexdigest() != digest:
        raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)
    copy.seek(0)


def _decompress(stored: IO[bytes], record: Record) -> Iterator[bytes]:
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored, closefd=False) as reader:
            while chunk := reader.read(CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise BundleError(f"{record.path} cannot be decompressed: {error}", hint=DAMAGED) from None


def _write_checked(chunks: Iterator[bytes], record: Record, folder: Path | None) -> None:
    """Write content to its file while checking its length and digest."""
    hasher = hashlib.sha256()
    left = record.size
    with _create(folder / record.path, record.mode) if folder else nullcontext() as target:
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            hasher.update(chunk)
            if target is not None:
                target.write(chunk)
    if left != 0 or hasher.hexdigest() != record.sha256:
        raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)
