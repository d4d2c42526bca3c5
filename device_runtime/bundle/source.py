"""The source of a release: a bundle in any form, with its head read and checked.

Every byte is untrusted until its digest matches. Data is hashed while it is copied, and only the
copy is used afterwards: changing the source during or after the check has no effect.
"""

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import zstandard

from device_runtime.bundle import manifest as schema
from device_runtime.bundle import signature as envelope
from device_runtime.bundle.fields import Sha256
from device_runtime.bundle.manifest import DAMAGED, Blob, Manifest, Record
from device_runtime.bundle.release import (
    CHUNK,
    OnBytes,
    Release,
    agrees,
    disk_error,
    file_chunks,
    file_problem,
)
from device_runtime.errors import BundleError

MAX_SIGNATURE_BYTES = 2 * schema.MAX_MANIFEST_BYTES
MAX_WINDOW = 8 << 20
"""Memory for a zstd frame, bytes: what RFC 8878 has every decoder support."""
FRAME_HEADER_BYTES = 18

Shared = Callable[[Record], Path | None]
"""Returns a file that may have the content and the mode of a record, to be linked; or None."""


Base = Callable[[Sha256], Path | None]
"""Returns an installed file that should have the content with that digest; None if none has."""


def nothing_shared(_record: Record) -> None:
    """Share no file."""


class Source(ABC):
    """A bundle to take a release from.

    Attributes:
        manifest: the checked manifest.
        manifest_bytes: the manifest as it is stored.
        digest: sha256 of the manifest's bytes; names the release.
        signature: stored DSSE envelope; empty in an unsigned bundle.
        sbom: SBOM as CycloneDX JSON.
    """

    def __init__(self, *, manifest_bytes: bytes, signature: bytes, sbom: bytes) -> None:
        """Check the head.

        Raises:
            BundleError: it is not valid.
        """
        self.manifest_bytes = manifest_bytes
        self.manifest: Manifest = schema.decode(manifest_bytes)
        self.digest = hashlib.sha256(manifest_bytes).hexdigest()
        self.signature = signature
        if signature:
            envelope.read(signature, manifest_bytes)
        self.sbom = sbom
        if not agrees(sbom, self.manifest.sbom):
            raise BundleError("the SBOM does not match the manifest", hint=DAMAGED)

    @abstractmethod
    def chunks(self, blob: Blob) -> Iterator[bytes]:
        """Read the stored bytes of a blob of the manifest; nothing is checked but the length.

        Raises:
            BundleError: they are missing or truncated.
        """

    def content(
        self, record: Record, blob: Blob, folder: Path | None, on_bytes: OnBytes | None
    ) -> Iterator[bytes]:
        """Read the content of a record; the caller checks its length and digest.

        Args:
            record: a record of the manifest.
            blob: its blob.
            folder: folder for a temporary copy of stored bytes; None for the system's.
            on_bytes: called with the number of stored bytes read, for each chunk.

        Raises:
            BundleError: the stored bytes are missing or damaged.
        """
        chunks = counted(self.chunks(blob), on_bytes)
        if blob.compression == "none":
            yield from chunks
            return
        with tempfile.TemporaryFile(dir=folder) as stored:
            store_checked(chunks, blob.sha256, record, stored)
            yield from decompress(stored, record)

    def build_on(self, base: Base) -> None:  # noqa: B027  (most sources are complete)
        """Take content that is not in the source from installed files.

        Raises:
            InstallError: a file that it builds on is not installed.
            ResourceError: there is too little memory to do it.
        """

    def check_rest(self) -> None:  # noqa: B027  (most sources have nothing else)
        """Check what lies around the blobs, if anything does."""

    def verify(self, on_bytes: OnBytes | None = None) -> None:
        """Check all data without writing it anywhere.

        Raises:
            BundleError: the data is damaged.
        """
        self._copy_blobs(None, on_bytes, nothing_shared)

    def unpack(
        self, folder: Path, on_bytes: OnBytes | None = None, shared: Shared = nothing_shared
    ) -> Release:
        """Check all data and write the release into an empty folder that nobody else writes to.

        The files are flushed to disk; the caller flushes the folders, or removes them on failure.

        Args:
            folder: an empty folder.
            on_bytes: called with the number of bytes read, for each chunk.
            shared: offers files of other releases on the same disk. One with the right content is
                linked, and its blob is not read.

        Raises:
            BundleError: the bundle is damaged.
            ResourceError: the disk is full.
        """
        try:
            self._copy_blobs(folder, on_bytes, shared)
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

    def _copy_blobs(self, folder: Path | None, on_bytes: OnBytes | None, shared: Shared) -> None:
        """Check the blobs in order, and write their content below a folder if given."""
        records: dict[str, list[Record]] = {}
        for record in self.manifest.records:
            if record.blob is not None:
                records.setdefault(record.blob.sha256, []).append(record)
        for digest, blob in self.manifest.blobs.items():
            left = records[digest]
            if folder is not None:
                left = [record for record in left if not _link_shared(folder, record, shared)]
            if not left:
                continue
            first, *others = left
            _write_checked(self.content(first, blob, folder, on_bytes), first, folder)
            if folder is not None:
                for record in others:
                    _write_checked(file_chunks(folder / first.path), record, folder)
        self.check_rest()


def _link_shared(folder: Path, record: Record, shared: Shared) -> bool:
    """Link a shared file into the release; False if there is none with that content."""
    path = shared(record)
    if path is None:
        return False
    target = folder / record.path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:
        # On another disk, without hard links, or with too many.
        return False
    if file_problem(target, record, None):
        target.unlink()
        return False
    return True


def counted(chunks: Iterator[bytes], on_bytes: OnBytes | None) -> Iterator[bytes]:
    """Report the size of each chunk as it is read."""
    for chunk in chunks:
        if on_bytes is not None:
            on_bytes(len(chunk))
        yield chunk


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


def store_checked(chunks: Iterator[bytes], digest: str, record: Record, copy: IO[bytes]) -> None:
    """Copy stored bytes to a temporary file, so that the decompressor gets checked bytes only."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        copy.write(chunk)
    if hasher.hexdigest() != digest:
        raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)
    copy.seek(0)


def decompress(
    stored: IO[bytes],
    record: Record,
    dictionary: zstandard.ZstdCompressionDict | None = None,
    max_window: int = MAX_WINDOW,
) -> Iterator[bytes]:
    """Decompress checked bytes; the frame must say that the result has the record's length.

    Args:
        stored: a zstd frame.
        record: record with the content.
        dictionary: content that the frame builds on.
        max_window: most memory for the frame's window, bytes.
    """
    decompressor = zstandard.ZstdDecompressor(dictionary, max_window)
    try:
        frame = zstandard.get_frame_parameters(stored.read(FRAME_HEADER_BYTES))
        if frame.content_size != record.size or frame.dict_id or frame.window_size > max_window:
            raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)
        stored.seek(0)
        with decompressor.stream_reader(stored, closefd=False) as reader:
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
