"""Files in the system's page cache: taken out of it, and how much of them stayed."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def drop(files: Iterable[Path]) -> None:
    """Take files out of the page cache, as far as the system lets any user do that.

    Pages that a process has mapped stay (posix_fadvise(2)).
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Pages that wait to be written stay as well.
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(files: Iterable[Path]) -> float | None:
    """Return the share of the files' bytes that is in the page cache; None if nobody can tell."""
    pages = cached = 0
    for path in files:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                continue
            # Private and writable, so that its address can be had; nothing is written.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
                count = -(-len(mapped) // mmap.PAGESIZE)
                flags = (ctypes.c_ubyte * count)()
                view = ctypes.c_char.from_buffer(mapped)
                size = ctypes.c_size_t(len(mapped))
                failed = ctypes.CDLL(None).mincore(ctypes.byref(view), size, flags)
                del view
                if failed:
                    return None
                pages += count
                cached += sum(flag & 1 for flag in flags)
    return cached / pages if pages else None
