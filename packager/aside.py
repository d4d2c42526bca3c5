"""Atomic writes of files: to a temporary name, flushed to disk, then renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from device_runtime import durable
from packager.errors import ResourceError


def check_writable(path: Path, hint: str) -> None:
    """Check that `written_aside` can write a file, before the work that it takes to make it.

    Raises:
        ResourceError: its folder cannot be created or written to.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    problem = ""
    if not folder.is_dir():
        problem = os.strerror(errno.ENOTDIR)
    elif not os.access(folder, os.W_OK):
        problem = os.strerror(errno.EACCES)
    if problem:
        raise ResourceError(f"cannot write {path}: {folder}: {problem}", hint=hint)


@contextmanager
def written_aside(path: Path, hint: str) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    Args:
        path: path of the new file; its folder is created if missing.
        hint: what to do next if the file cannot be written.

    Raises:
        ResourceError: the folder cannot be written to, or its disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable.written_aside(path) as file:
            Path(file.name).chmod(0o644)
            yield file
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", hint=hint) from None
