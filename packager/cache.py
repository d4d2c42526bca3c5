"""Content-addressed cache of build stages: the same inputs are processed once.

A stage is a folder named by the digest of all its inputs. It appears atomically: it is filled under
a temporary name, flushed to disk and renamed.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from packager import console


def root() -> Path:
    """Return the cache folder: `$EDGEPACK_CACHE`, else `~/.cache/edgepack` (XDG)."""
    chosen = os.environ.get("EDGEPACK_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepack"


def key(inputs: Mapping[str, Any]) -> str:
    """Compute the digest (sha256, hex) of JSON-able inputs; the order of keys does not matter."""
    return bytes_digest(json.dumps(inputs, sort_keys=True).encode())


def bytes_digest(data: bytes) -> str:
    """Compute the sha256 of some bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Compute the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(kind: str, inputs: Mapping[str, Any]) -> Path:
    """Return the folder of a stage, which need not exist yet; arguments as for `stage`."""
    return root() / kind / key(inputs)


def stage(kind: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Return the folder of a stage; make it first if it is not in the cache.

    Of two processes that need the same stage, one waits for the other.

    Args:
        kind: name of the kind of stage; a folder of the cache.
        inputs: everything the result depends on, JSON-able.
        make: function that fills an empty folder; if it raises, the cache is unchanged.
    """
    final = place(kind, inputs)
    parent, digest = final.parent, final.name
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent / f".{digest}.lock"):
        if final.is_dir():
            console.note(f"{kind}: taken from the cache ({digest[:12]})")
        else:
            for abandoned in parent.glob(f".{digest}-*"):
                shutil.rmtree(abandoned)
            aside = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=parent))
            try:
                make(aside)
                aside.chmod(0o755)
                _flush(aside)
                aside.rename(final)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(_unfinished(digest), ignore_errors=True)
    return final


def unfinished(inputs: Mapping[str, Any]) -> Path:
    """Return a folder for what is done of a stage, which stays until the stage is there.

    If `make` raises or this process is killed, the next attempt gets it. So files are linked from
    there into the stage, not moved.

    Args:
        inputs: those of the stage, which must be the one being made.
    """
    folder = _unfinished(key(inputs))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        console.note("continuing what an interrupted build has left")
    return folder


def _unfinished(digest: str) -> Path:
    return root() / "unfinished" / digest


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while a block runs; wait for it if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        console.note("another edgepack process is at the same work; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _flush(folder: Path) -> None:
    """Flush all files and folders below to disk, so that the renamed folder is never partial."""
    # Windows opens no folders, and flushes only what is open for writing.
    windows = platform.system() == "Windows"
    for base, _, names in os.walk(folder):
        for name in names if windows else [*names, "."]:
            path = Path(base, name)
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
