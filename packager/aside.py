"""Files appear whole or not at all: written aside, flushed to disk, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from device_runtime import durable
from packager.errors import ResourceError


@contextmanager
def written_aside(path: Path, hint: str) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    Args:
        path: where it goes; its folder is made.
        hint: what to do if it cannot be written.

    Raises:
        ResourceError: the folder cannot be written to, or its disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable.written_aside(path) as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", hint=hint) from None
