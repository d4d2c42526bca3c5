"""Files of the hub, downloaded into a folder: resumed, with progress, and verified.

A file is written to NAME.part and gets its name once its digest matched. What an interruption
leaves is hashed the next time, and the rest is requested.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.update.registry.transport import Patience, TransientError
from packager import console, machine
from packager.errors import ModelSourceError, ResourceError
from packager.models import hub_api
from packager.units import gigabytes, megabytes

PART = ".part"
PROGRESS = 1 << 20
"""Bytes after which a connection counts as one that worked, so that its loss is forgiven."""
CHUNK = 1 << 20


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a model on the hub.

    Attributes:
        path: path in the repository.
        size: bytes.
        digest: sha256 of a large file (LFS); of a small one the digest of its blob in git, sha1.
    """

    path: str
    size: int
    digest: str

    def hasher(self) -> Any:
        """Return a hash object that computes `digest` from the file's bytes."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


def download(files: Sequence[HubFile], folder: Path, url: Callable[[str], str]) -> None:
    """Download the files that a folder does not have yet.

    Args:
        files: files of one commit.
        folder: the folder; a file keeps its path in it.
        url: function that returns the URL of a path.

    Raises:
        ModelSourceError: the hub sends other bytes than it lists.
        ResourceError: the disk is too small.
    """
    wanted = missing(files, folder)
    if not wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(_size(_part(folder, file)) for file in wanted)
    total = sum(file.size for file in wanted)
    _check_space(total - there, folder, len(wanted))
    with console.progress("Downloading", total) as advance:
        for file in wanted:
            _fetch(file, folder, url(file.path), advance)


def missing(files: Sequence[HubFile], folder: Path) -> list[HubFile]:
    """Return the files that a folder does not have yet."""
    return [file for file in files if not (folder / file.path).is_file()]


def _check_space(needed: int, folder: Path, files: int) -> None:
    free = machine.disk_free(folder)
    console.note(
        f"downloading {megabytes(needed)} in {files} files; {gigabytes(free)} of disk free"
    )
    if needed > free:
        raise ResourceError(
            f"the download needs {gigabytes(needed)} of disk space; {gigabytes(free)} available "
            f"at {folder}",
            hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
        )


def _fetch(file: HubFile, folder: Path, url: str, advance: Callable[[int], None]) -> None:
    part = _part(folder, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    # What was there before a power cut may be damaged: then once more, from the beginning.
    for last in (False, True):
        if _complete(file, part, url, advance):
            part.replace(folder / file.path)
            return
        part.unlink()
        advance(-file.size)
        if last:
            raise ModelSourceError(
                f"the hub sent other bytes than it lists for {file.path}",
                hint="Run the same command again; if it fails again, the network or a proxy "
                "changes what it transfers.",
            )


def _complete(file: HubFile, path: Path, url: str, advance: Callable[[int], None]) -> bool:
    """Download one file, or its rest; return whether its digest matches."""
    patience = Patience(console.note)
    with path.open("ab+") as part:
        part.seek(0)
        hasher, offset = file.hasher(), 0
        while offset < file.size and (chunk := part.read(min(CHUNK, file.size - offset))):
            hasher.update(chunk)
            offset += len(chunk)
        part.truncate(offset)
        advance(offset)

        def restart() -> None:
            nonlocal hasher, offset
            part.truncate(0)
            advance(-offset)
            hasher, offset = file.hasher(), 0

        reached = offset
        while offset < file.size:
            try:
                for chunk in hub_api.resumed(url, offset, file.size, restart):
                    part.write(chunk)
                    hasher.update(chunk)
                    offset += len(chunk)
                    advance(len(chunk))
            except TransientError as error:
                if offset - reached >= PROGRESS:
                    reached = offset
                    patience.progressed()
                part.flush()
                patience.failed(error)
        part.flush()
        os.fsync(part.fileno())
    return bool(hasher.hexdigest() == file.digest)


def _part(folder: Path, file: HubFile) -> Path:
    return folder / f"{file.path}{PART}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
