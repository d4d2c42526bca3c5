"""Memory read bandwidth, of as much memory as a token's weights."""

import time
from concurrent.futures import ThreadPoolExecutor

from device_runtime import memory

MOST = 512 << 20
"""Largest working set, bytes: more than the caches of devices hold."""
LEAST = 64 << 20
"""Smallest working set in place of a larger one, bytes: less would be in the caches of a device."""
SHARE = 4
"""The working set takes at most the free memory by this."""
SECONDS = 0.2
"""Shortest time of a measurement."""


class Reader:
    """Reads a block of memory, over and over.

    NumPy's maximum of bytes is vector instructions without arithmetic to speak of, outside Python's
    global lock: memchr of glibc, without the lock too, reads a fifth less.

    Args:
        size: bytes that a decode step reads.
        threads: threads that read, each its part.

    Attributes:
        size: size of the block, bytes: less than that if memory is short; 0 if it is too short.
    """

    def __init__(self, size: int, threads: int) -> None:
        # Megabytes, which a service that measures nothing does without.
        import numpy as np

        room = min(MOST, memory.available() // SHARE)
        self.size = size if size <= room else room if room >= LEAST else 0
        block = np.empty(self.size, np.uint8)
        block.fill(1)  # pages that were never written to are all the same one
        self._parts = np.array_split(block, threads)
        self._read = np.max
        self._pool = ThreadPoolExecutor(threads)

    def rate(self) -> float:
        """Measure the bytes that are read in a second."""
        passes = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS:
            list(self._pool.map(self._read, self._parts))
            passes += 1
        return passes * self.size / elapsed
