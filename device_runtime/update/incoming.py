"""A bundle that arrives in pieces from another machine, and goes on where it was cut.

It becomes a folder as `BundleFolder` reads it, of the user who is logged in:

    manifest.json, manifest.sig, sbom.cdx.json
    blobs/sha256/<hex>            complete, with the right digest
    blobs/sha256/<hex>.part       what has arrived of others
    contents/<path of a record>   files of the release that came by other means

A transfer is one stream in each direction:

1. a line with the lengths of the three files, and the files;
2. back: a line with the blobs that this device lacks, and how much of each is here;
3. the rest of each, in that order;
4. back: a line with the blobs whose digest was wrong. They are removed.

Data is written to its place in the file, never appended: two transfers of the same bundle at once
(a lost connection can live on for minutes on the device) write the same bytes to the same places.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.fields import Sha256
from device_runtime.bundle.folder import BundleFolder
from device_runtime.bundle.manifest import Manifest, Record
from device_runtime.bundle.quantization import Struct
from device_runtime.bundle.release import CHUNK, MAX_SBOM_BYTES, disk_error
from device_runtime.bundle.source import MAX_SIGNATURE_BYTES, Shared, Source, nothing_shared
from device_runtime.durable import Folder, aside_name, open_folder
from device_runtime.errors import InstallError, ResourceError
from device_runtime.update.links import STATE
from device_runtime.update.preflight import SPARE_BYTES
from device_runtime.update.releases import Releases
from device_runtime.update.target import Target

PART = ".part"
CONTENTS = "contents"
ANSWER = "edgepack-answer "
"""Start of the line of an answer: the user's shell may print lines of its own before it."""
MAX_LINE = 128
"""Limit on the first line of a transfer, bytes."""


class Head(Struct, frozen=True, kw_only=True):
    """Lengths of the files before the blobs, bytes."""

    manifest: int
    signature: int
    sbom: int


class Missing(Struct, frozen=True, kw_only=True):
    """A blob that a device lacks.

    Attributes:
        sha256: digest of the blob.
        size: length of the blob, bytes.
        present: bytes of it that have arrived.
    """

    sha256: Sha256
    size: int
    present: int


class Lacking(Struct, frozen=True, kw_only=True):
    """Answer to the head of a transfer."""

    missing: tuple[Missing, ...]


class Received(Struct, frozen=True, kw_only=True):
    """Answer to the data of a transfer: blobs to send again."""

    damaged: tuple[Sha256, ...]


def receive(
    folder: Path,
    stream: BufferedIOBase,
    answer: Callable[[Struct], None],
    shared: Shared,
    *,
    dry_run: bool = False,
) -> None:
    """Receive what this device lacks of a bundle.

    Args:
        folder: folder of the bundle; created if missing.
        stream: the transfer.
        answer: sends an answer.
        shared: offers the files that are here. Their data is not read: should one be damaged,
            the installation notices it.
        dry_run: write nothing, and stop after the first answer.

    Raises:
        BundleError: the manifest is not valid.
        InstallError: the transfer ended early; what has arrived is kept.
        ResourceError: too little space.
    """
    manifest_bytes, signature, sbom = _read_head(stream)
    manifest = schema.decode(manifest_bytes)
    try:
        missing = lacking(manifest, folder, shared)
        if dry_run:
            answer(Lacking(missing=missing))
            return
        blobs = folder / schema.BLOB_PREFIX
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        blobs.mkdir(parents=True, exist_ok=True)
        _check_space(manifest, folder, missing, shared)
        with open_folder(folder) as opened:
            for name, data in (
                (schema.MANIFEST_NAME, manifest_bytes),
                (schema.SIGNATURE_NAME, signature),
                (schema.SBOM_NAME, sbom),
            ):
                with opened.written_aside(name, 0o600) as file:
                    file.write(data)
        answer(Lacking(missing=missing))
        with open_folder(blobs) as into:
            damaged = tuple(blob.sha256 for blob in missing if not _take(into, blob, stream))
    except OSError as error:
        raise disk_error(error, folder) from None
    answer(Received(damaged=damaged))


def lacking(manifest: Manifest, folder: Path, shared: Shared) -> tuple[Missing, ...]:
    """List the blobs that are needed and not complete in a folder, in the manifest's order."""
    needed = {r.blob.sha256 for r in manifest.records if r.blob and shared(r) is None}
    missing = []
    for digest, blob in manifest.blobs.items():
        stored = folder / schema.BLOB_PREFIX / digest
        if digest not in needed or _size(stored) == blob.size:
            continue
        present = max(0, min(_size(stored.with_name(digest + PART)), blob.size))
        missing.append(Missing(sha256=digest, size=blob.size, present=present))
    return tuple(missing)


@contextmanager
def installed(target: Target) -> Iterator[Shared]:
    """Offer the files of the releases on a target."""
    with ExitStack() as opened:
        try:
            state = opened.enter_context(target.folder(STATE))
        except OSError:  # nothing was ever installed
            yield nothing_shared
        else:
            yield Releases(target, state).shared


def unpacked(folder: Path) -> Shared:
    """Offer the files below `contents` in the folder of a transfer as they are."""

    def offer(record: Record) -> Path | None:
        path = folder / CONTENTS / record.path
        return path if _size(path) == record.size else None

    return offer


@contextmanager
def contents(source: Source, releases: Folder) -> Iterator[Shared]:
    """Offer the files below `contents` in the folder of a transfer, if the source is one.

    The user who made them can change them at any time, so each is offered as a copy in a folder
    that only this program writes to. `Source.unpack` checks what it links.

    Args:
        source: the bundle to install.
        releases: the folder of the releases; the copies are on its disk.
    """
    if not isinstance(source, BundleFolder) or not (source.folder / CONTENTS).is_dir():
        yield nothing_shared
        return
    name = aside_name(source.digest)
    with releases.make_folder(name) as copies:

        def offer(record: Record) -> Path | None:
            with ExitStack() as opened, suppress(OSError):
                around = opened.enter_context(open_folder(source.folder))
                *parents, last = f"{CONTENTS}/{record.path}".split("/")
                for parent in parents:
                    around = opened.enter_context(around.folder(parent))
                file = opened.enter_context(around.file(last))
                if os.fstat(file.fileno()).st_size == record.size:
                    return _copy(file, record, copies)
            return None

        try:
            yield offer
        finally:
            releases.remove(name)


def either(first: Shared, second: Shared) -> Shared:
    """Offer what the first has, or else the second."""
    return lambda record: first(record) or second(record)


def _copy(source: IO[bytes], record: Record, copies: Folder) -> Path:
    for name in copies.names():
        copies.remove(name)
    left = record.size
    with copies.written_aside(record.sha256) as copy:
        os.fchmod(copy.fileno(), record.mode)
        while left and (chunk := source.read(min(CHUNK, left))):
            copy.write(chunk)
            left -= len(chunk)
    return copies.path / record.sha256


def _size(path: Path) -> int:
    """Return the size of a plain file, bytes; -1 if there is none."""
    with suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    return -1


def _read_head(stream: BufferedIOBase) -> tuple[bytes, bytes, bytes]:
    line = stream.readline(MAX_LINE)
    try:
        head = msgspec.json.decode(line, type=Head)
    except msgspec.DecodeError:
        raise InstallError("this is not a transfer of a bundle", hint=AGAIN) from None
    parts = (
        (head.manifest, schema.MAX_MANIFEST_BYTES),
        (head.signature, MAX_SIGNATURE_BYTES),
        (head.sbom, MAX_SBOM_BYTES),
    )
    if any(not 0 <= size <= limit for size, limit in parts):
        raise InstallError("the head of the transfer is too large", hint=AGAIN)
    manifest, signature, sbom = (b"".join(_exactly(stream, size)) for size, _ in parts)
    return manifest, signature, sbom


def _exactly(stream: BufferedIOBase, size: int) -> Iterator[bytes]:
    """Read a number of bytes, as they arrive."""
    while size:
        chunk = stream.read1(min(CHUNK, size))
        if not chunk:
            raise InstallError("the transfer ended before all data had arrived", hint=AGAIN)
        size -= len(chunk)
        yield chunk


def _take(blobs: Folder, blob: Missing, stream: BufferedIOBase) -> bool:
    """Receive the rest of a blob; False, and nothing is kept, if its digest is wrong."""
    part = blob.sha256 + PART
    hasher = hashlib.sha256()
    with blobs.file(part, make=True) as file:
        left = blob.present
        while left and (chunk := file.read(min(CHUNK, left))):
            hasher.update(chunk)
            left -= len(chunk)
        file.seek(blob.present)
        for chunk in _exactly(stream, blob.size - blob.present):
            hasher.update(chunk)
            file.write(chunk)
    if hasher.hexdigest() == blob.sha256:
        blobs.rename(part, blob.sha256)
        return True
    blobs.remove(part)
    return False


def _check_space(
    manifest: Manifest, folder: Path, missing: tuple[Missing, ...], shared: Shared
) -> None:
    """Refuse a transfer that does not fit, with the release beside it on the same disk."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    needed = sum(blob.size - blob.present for blob in missing) + SPARE_BYTES
    if disk.f_fsid == os.statvfs("/var").f_fsid:
        needed += sum(r.size for r in manifest.records if not r.link and shared(r) is None)
    if free < needed:
        raise ResourceError(
            f"the disk of {folder} has {free >> 20} MiB free; transfer and installation need "
            f"{needed >> 20} MiB",
            hint="Free some space there, or use a smaller model.",
        )


AGAIN = "Run the same command again: it goes on where this one ended."
