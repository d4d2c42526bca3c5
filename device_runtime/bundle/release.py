"""A release: a bundle unpacked on a disk."""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle import manifest as schema
from device_runtime.bundle import signature as envelope
from device_runtime.bundle.manifest import Blob, Manifest, Record
from device_runtime.durable import open_folder
from device_runtime.errors import BundleError, ResourceError

CHUNK = 1 << 20

MAX_SBOM_BYTES = 16 << 20

INSTALLED = Path("/var/lib/edgepack/current")

OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A bundle's content as files in a folder.

    Attributes:
        folder: folder with the release's files.
        manifest: manifest of the bundle.
        digest: sha256 of the manifest's bytes.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def model_folder(self) -> Path:
        """The folder that ONNX Runtime GenAI opens."""
        return self.folder / schema.MODEL_FOLDER

    @property
    def embedding_folder(self) -> Path:
        """The folder of the embedding model, if the release has one."""
        return self.folder / schema.EMBEDDING_FOLDER

    @property
    def speech_folder(self) -> Path:
        """The folder of the speech model, if the release has one."""
        return self.folder / schema.SPEECH_FOLDER

    @property
    def program(self) -> Path:
        """The frozen runtime."""
        return self.folder / schema.RUNTIME_ENTRY

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as it is stored.

        Raises:
            BundleError: it cannot be read.
        """
        return self._member(schema.MANIFEST_NAME)

    @property
    def signature(self) -> bytes:
        """The stored DSSE envelope; empty if the release is not signed.

        Raises:
            BundleError: it cannot be read.
        """
        return self._member(schema.SIGNATURE_NAME)

    def _member(self, name: str) -> bytes:
        try:
            return plain_file(self.folder, name)
        except OSError as error:
            raise BundleError(
                f"{self.folder / name}: {error.strerror}", hint="Install the bundle again."
            ) from None

    def verify(self, on_bytes: OnBytes | None = None) -> None:
        """Compare every file and link with the manifest.

        Raises:
            BundleError: files are missing, changed or extra; the message lists them.
        """
        problems = [
            problem
            for record in self.manifest.records
            if (problem := file_problem(self.folder / record.path, record, on_bytes))
        ]
        try:
            if not agrees(self._member(schema.SBOM_NAME), self.manifest.sbom):
                problems.append(f"{schema.SBOM_NAME} has changed")
            if self.signature:
                envelope.read(self.signature, self.manifest_bytes)
        except BundleError as error:
            problems.append(str(error))
        known = {record.path for record in self.manifest.records}
        known |= {schema.SBOM_NAME, schema.SIGNATURE_NAME, schema.MANIFEST_NAME}
        for base, folders, names in os.walk(self.folder):
            links = [name for name in folders if Path(base, name).is_symlink()]
            for name in [*names, *links]:
                path = Path(base, name).relative_to(self.folder).as_posix()
                if path not in known:
                    problems.append(f"{path} is not part of the release")
        if problems:
            raise BundleError(
                f"the release in {self.folder} is damaged: " + "; ".join(problems[:20]),
                hint="Install the bundle again.",
            )


def open_release(folder: Path) -> Release:
    """Read the manifest of a release; its files are not checked (`Release.verify` does).

    Raises:
        BundleError: there is no manifest, or it is not valid.
    """
    folder = folder.resolve()
    try:
        data = plain_file(folder, schema.MANIFEST_NAME)
    except OSError as error:
        raise BundleError(
            f"{folder} is not a release: {schema.MANIFEST_NAME}: {error.strerror}",
            hint="Install a bundle first: edgepack-runtime install FILE.epk",
        ) from None
    return Release(
        folder=folder, manifest=schema.decode(data), digest=hashlib.sha256(data).hexdigest()
    )


def own_release() -> Release:
    """Open the release that this frozen program is part of, or else the installed one.

    Raises:
        BundleError: neither exists.
    """
    around = Path(sys.executable).resolve().parent.parent
    if getattr(sys, "frozen", False) and (around / schema.MANIFEST_NAME).is_file():
        return open_release(around)
    return open_release(INSTALLED)


def disk_error(error: OSError, folder: Path) -> ResourceError:
    """Convert an error of the file system into one for the user."""
    hints = {
        errno.EACCES: "Run it as root: with sudo, say.",
        errno.EPERM: "Run it as root: with sudo, say.",
        errno.EROFS: "Mount it writable.",
        errno.EIO: "Check the disk: it reports an error of its hardware.",
    }
    return ResourceError(
        f"cannot write to {folder}: {error.strerror or error}",
        hint=hints.get(error.errno or 0, "Free some space there, or check that it is writable."),
    )


def plain_file(folder: Path, name: str) -> bytes:
    """Read a small file of a release; a link is an error: it may lead out of the release."""
    with open_folder(folder) as opened, opened.file(name) as file:
        return file.read(MAX_SBOM_BYTES + 1)


def agrees(data: bytes, blob: Blob) -> bool:
    """Return whether data has a blob's length and digest."""
    return len(data) == blob.size and hashlib.sha256(data).hexdigest() == blob.sha256


def file_chunks(path: Path) -> Iterator[bytes]:
    """Read a file in chunks of at most `CHUNK` bytes."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def file_problem(path: Path, record: Record, on_bytes: OnBytes | None) -> str:
    """Describe how a file differs from its record; empty if it does not."""
    try:
        status = path.lstat()
        if record.link is not None:
            same = stat.S_ISLNK(status.st_mode) and str(path.readlink()) == record.link
            return "" if same else f"{record.path} is not a link to {record.link}"
        if not stat.S_ISREG(status.st_mode):
            return f"{record.path} is not a plain file"
        if stat.S_IMODE(status.st_mode) != record.mode:
            return f"{record.path} has the wrong mode"
        if status.st_size != record.size:
            return f"{record.path} has the wrong size"
        hasher = hashlib.sha256()
        for chunk in file_chunks(path):
            hasher.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
        return "" if hasher.hexdigest() == record.sha256 else f"{record.path} has changed"
    except OSError as error:
        return f"{record.path}: {error.strerror}"
