"""Content-addressed cache of build stages: the same inputs are worked on once.

A stage is a folder named by the digest of all that goes into it. It appears whole or not at
all: made aside, flushed to disk, renamed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packager import console


def root() -> Path:
    """The cache folder: `$EDGEPACK_CACHE`, else `~/.cache/edgepack` (XDG)."""
    chosen = os.environ.get("EDGEPACK_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepack"


def key(inputs: Mapping[str, Any]) -> str:
    """Digest (sha256, hex) of JSON-able inputs; the order of the keys does not matter."""
    return bytes_digest(json.dumps(inputs, sort_keys=True).encode())


def bytes_digest(data: bytes) -> str:
    """sha256 of some bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(kind: str, inputs: Mapping[str, Any]) -> Path:
    """Name the folder of a stage, which need not be there yet; arguments as for `stage`."""
    return root() / kind / key(inputs)


def stage(kind: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder of a finished stage, made first if it is not in the cache.

    Two processes that want the same stage wait for each other.

    Args:
        kind: name of the stage; a folder of the cache.
        inputs: everything the result depends on, JSON-able.
        make: fills an empty folder; whatever it raises leaves the cache as it was.
    """
    final = place(kind, inputs)
    parent, digest = final.parent, final.name
    parent.mkdir(parents=True, exist_ok=True)
    with _lock(parent / f".{digest}.lock"):
        if final.is_dir():
            console.note(f"{kind}: taken from the cache ({digest[:12]})")
            return final
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
    return final


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.note("another edgepack is making the same thing; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush(folder: Path) -> None:
    """Flush every file and folder below to disk, so that the rename never shows a half one."""
    for base, _, names in os.walk(folder):
        for name in [*names, "."]:
            path = Path(base, name)
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
