"""Files appear whole or not at all: written aside, flushed to disk, renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            aside = Path(file.name)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                aside.chmod(0o644)
                aside.rename(path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", hint=hint) from None
