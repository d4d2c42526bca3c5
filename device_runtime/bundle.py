"""Open, verify and unpack a bundle (`.epk`). Every byte of it is hostile until its digest agrees.

The order of checks, for a bundle from anywhere:

1. each member's tar header is, bit for bit, the one header this format has for that name and
   size: plain file, owner 0, no times, no links, no devices, no extensions;
2. the member is the one expected at that place (`manifest.py` gives the order), so none is
   missing, extra or there twice;
3. the format marker, then the manifest (`manifest.decode` lists its rules);
4. the SBOM's digest;
5. each blob: length, then digest of the stored bytes, then, only from bytes already checked,
   decompression with a bound, then length and digest of the content;
6. nothing follows the end.

Data is hashed while it is copied, and only the copy is used afterwards: changing the file during
or after the check gains nothing.
"""

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import zstandard

from device_runtime import manifest as schema
from device_runtime.durable import open_folder
from device_runtime.errors import BundleError, ResourceError
from device_runtime.manifest import DAMAGED, Blob, Manifest, Record

BLOCK = 512
CHUNK = 1 << 20
MAX_MEMBER = 8**11 - 1
"""Largest member that a ustar header can describe, bytes (8 GiB - 1)."""
MAX_SBOM_BYTES = 16 << 20
INSTALLED = Path("/var/lib/edgepack/current")

OnBytes = Callable[[int], None]


def member_header(name: str, size: int) -> bytes:
    """The tar header of a member: POSIX.1-1988 ustar, 512 bytes, without owner or times."""
    header = bytearray(BLOCK)
    header[0 : len(name)] = name.encode("ascii")
    header[100:136] = b"0000644\x000000000\x000000000\x00" + b"%011o\x00" % size
    header[136:148] = b"00000000000\x00"
    header[148:157] = b"        0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def padding(size: int) -> bytes:
    """The zeros between a member of a size and the next header."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)


class Bundle:
    """An open bundle: its head has been read and checked, its data has not.

    Attributes:
        manifest: the checked manifest.
        manifest_bytes: the manifest as it is stored.
        digest: sha256 of the manifest's bytes; names the release.
        signature: stored signature, empty in an unsigned bundle.
        sbom: CycloneDX JSON.
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
        if not _agrees(self.sbom, self.manifest.sbom):
            raise BundleError("the SBOM does not match the manifest", hint=DAMAGED)

    def verify(self, on_bytes: OnBytes | None = None) -> None:
        """Check all data; nothing is kept.

        Raises:
            BundleError: what is wrong.
        """
        self._copy_blobs(None, on_bytes)

    def unpack(self, folder: Path, on_bytes: OnBytes | None = None) -> "Release":
        """Check all data and write the release into an empty folder that nobody else writes to.

        The files are flushed to disk; the caller flushes the folders, or removes them on failure.

        Raises:
            BundleError: what is wrong with the bundle.
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
                with _created(folder / name, 0o644) as target:
                    target.write(data)
        except OSError as error:
            raise disk_error(error, folder) from None
        return Release(folder=folder, manifest=self.manifest, digest=self.digest)

    def _copy_blobs(self, folder: Path | None, on_bytes: OnBytes | None) -> None:
        """Read all blobs in order, check them, and write their content below a folder if given."""
        wanted: dict[str, list[Record]] = {}
        for record in self.manifest.records:
            if record.blob is not None:
                wanted.setdefault(record.blob.sha256, []).append(record)
        for digest, blob in self.manifest.blobs.items():
            first, *others = wanted[digest]
            size = self._member(schema.BLOB_PREFIX + digest)
            if size != blob.size:
                raise BundleError(f"{first.path} is stored with another size", hint=DAMAGED)
            chunks = self._chunks(size, on_bytes)
            if blob.compression == "zstd":
                with tempfile.TemporaryFile(dir=folder) as stored:
                    _store_checked(chunks, digest, first, stored)
                    _write_checked(_decompressed(stored, first), first, folder)
            else:
                _write_checked(chunks, first, folder)
            if folder is not None:
                for record in others:
                    _write_checked(_file_chunks(folder / first.path), record, folder)
        if self._read(len(END)) != END or self._file.read(1):
            raise BundleError("the bundle goes on after its end", hint=DAMAGED)

    def _small(self, name: str, limit: int) -> bytes:
        size = self._member(name)
        if size > limit:
            raise BundleError(f"{name} is larger than {limit} bytes", hint=DAMAGED)
        return b"".join(self._chunks(size))

    def _member(self, expected: str) -> int:
        """Read the header of the next member, which must be the expected one; its size."""
        header = self._read(BLOCK)
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
        except ValueError:
            size = -1
        if name != expected:
            shown = repr(name) if name else "the end"
            what = "no edgepack bundle" if expected == schema.MARKER_NAME else "damaged"
            raise BundleError(
                f"this is {what}: {expected} should come next, {shown} does", hint=DAMAGED
            )
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
            raise BundleError("there is data between two members", hint=DAMAGED)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise BundleError("the bundle ends too early", hint=DAMAGED)
        return data


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check its head.

    Raises:
        BundleError: it is missing, no bundle, damaged, or of another format version.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be opened: {error.strerror}", hint="Give the path of a .epk file."
        ) from None
    with file:
        yield Bundle(file)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A bundle's content as files in a folder.

    Attributes:
        folder: the folder.
        manifest: its manifest.
        digest: sha256 of the manifest's bytes.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def model_folder(self) -> Path:
        """What ONNX Runtime GenAI opens."""
        return self.folder / schema.MODEL_FOLDER

    @property
    def program(self) -> Path:
        """The frozen runtime."""
        return self.folder / schema.RUNTIME_ENTRY

    def verify(self, on_bytes: OnBytes | None = None) -> None:
        """Compare every file and link with the manifest.

        Raises:
            BundleError: names everything that is missing, changed or extra.
        """
        found = [
            problem
            for record in self.manifest.records
            if (problem := _file_problem(self.folder / record.path, record, on_bytes))
        ]
        for name in (schema.SBOM_NAME, schema.SIGNATURE_NAME):
            try:
                data = _plain_file(self.folder, name)
                if name == schema.SBOM_NAME and not _agrees(data, self.manifest.sbom):
                    found.append(f"{name} is changed")
            except OSError as error:
                found.append(f"{name}: {error.strerror}")
        known = {record.path for record in self.manifest.records}
        known |= {schema.SBOM_NAME, schema.SIGNATURE_NAME, schema.MANIFEST_NAME}
        for base, folders, names in os.walk(self.folder):
            links = [name for name in folders if Path(base, name).is_symlink()]
            for name in [*names, *links]:
                path = Path(base, name).relative_to(self.folder).as_posix()
                if path not in known:
                    found.append(f"{path} does not belong to it")
        if found:
            raise BundleError(
                f"the release in {self.folder} is damaged: " + "; ".join(found[:20]),
                hint="Install the bundle again.",
            )


def open_release(folder: Path) -> Release:
    """Read the manifest of a release; its files are not checked (`Release.verify` does).

    Raises:
        BundleError: there is no manifest, or it is not valid.
    """
    folder = folder.resolve()
    try:
        data = _plain_file(folder, schema.MANIFEST_NAME)
    except OSError as error:
        raise BundleError(
            f"{folder} is no release: {schema.MANIFEST_NAME}: {error.strerror}",
            hint="Install a bundle first: edgepack-runtime install FILE.epk",
        ) from None
    return Release(
        folder=folder, manifest=schema.decode(data), digest=hashlib.sha256(data).hexdigest()
    )


def own_release() -> Release:
    """The release this frozen program is part of, else the one that is installed.

    Raises:
        BundleError: there is neither.
    """
    around = Path(sys.executable).resolve().parent.parent
    if getattr(sys, "frozen", False) and (around / schema.MANIFEST_NAME).is_file():
        return open_release(around)
    return open_release(INSTALLED)


def disk_error(error: OSError, folder: Path) -> ResourceError:
    """An error of the file system as one for the user."""
    return ResourceError(
        f"cannot write to {folder}: {error.strerror or error}",
        hint="Free some space there, or check that it is writable.",
    )


def _check_marker(marker: bytes) -> None:
    name, _, version = marker.decode("ascii", "replace").strip().partition(" ")
    if name != schema.MARKER_NAME or not version.isdecimal():
        raise BundleError("this is no edgepack bundle: its format marker is wrong", hint=DAMAGED)
    schema.check_format(int(version))
    if marker != schema.MARKER:
        raise BundleError("the format marker is damaged", hint=DAMAGED)


def _plain_file(folder: Path, name: str) -> bytes:
    """Read a small file of a release; a link there is an error: it may lead elsewhere."""
    with open_folder(folder) as opened, opened.file(name) as file:
        return file.read(MAX_SBOM_BYTES + 1)


def _agrees(data: bytes, blob: Blob) -> bool:
    return len(data) == blob.size and hashlib.sha256(data).hexdigest() == blob.sha256


@contextmanager
def _created(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Open a new file, flushed to disk at the end; an existing file or link is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
    os.fchmod(descriptor, mode)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


def _store_checked(chunks: Iterator[bytes], digest: str, record: Record, copy: IO[bytes]) -> None:
    """Copy stored bytes aside, so that the decompressor sees none that were not checked."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        copy.write(chunk)
    if hasher.hexdigest() != digest:
        raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)
    copy.seek(0)


def _decompressed(stored: IO[bytes], record: Record) -> Iterator[bytes]:
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored, closefd=False) as reader:
            while chunk := reader.read(CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise BundleError(f"{record.path} cannot be decompressed: {error}", hint=DAMAGED) from None


def _write_checked(chunks: Iterator[bytes], record: Record, folder: Path | None) -> None:
    """Write content to its file; check its length and digest on the way."""
    hasher = hashlib.sha256()
    left = record.size
    with _created(folder / record.path, record.mode) if folder else nullcontext() as target:
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            hasher.update(chunk)
            if target is not None:
                target.write(chunk)
    if left != 0 or hasher.hexdigest() != record.sha256:
        raise BundleError(f"the data of {record.path} is damaged", hint=DAMAGED)


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _file_problem(path: Path, record: Record, on_bytes: OnBytes | None) -> str:
    """What differs between a file and its record; empty if nothing does."""
    try:
        found = path.lstat()
        if record.link is not None:
            same = stat.S_ISLNK(found.st_mode) and str(path.readlink()) == record.link
            return "" if same else f"{record.path} is not the link it should be"
        if not stat.S_ISREG(found.st_mode):
            return f"{record.path} is no file"
        if stat.S_IMODE(found.st_mode) != record.mode:
            return f"{record.path} has another mode"
        if found.st_size != record.size:
            return f"{record.path} has another size"
        hasher = hashlib.sha256()
        for chunk in _file_chunks(path):
            hasher.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
        return "" if hasher.hexdigest() == record.sha256 else f"{record.path} is changed"
    except OSError as error:
        return f"{record.path}: {error.strerror}"
