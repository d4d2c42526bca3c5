"""Weights that are mapped from a model's files, more of them than there is memory for.

A model that generates reads its layers in order, again and again. Of pages that do not fit, the
kernel drops those used longest ago, which are needed next: each token would take reading the whole
model from the disk. So some layers are dropped as soon as they were used, and fetched ahead of
their next use, and the others stay. Advice to the kernel (man 2 madvise), which changes no result.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

AHEAD = 2
"""Layers that are fetched ahead: one that is being read, and one that is ready."""

_PAGEOUT, _POPULATE_READ = 21, 22  # linux/mman.h


class MappedLayers:
    """The layers of a model, whose weights pass through memory as far as they do not fit.

    Attributes:
        size: mapped weights of all layers, bytes.
        passing: indices of the layers that do not stay in memory.
    """

    def __init__(self, layers: Sequence[nn.Module], room: int) -> None:
        """Begin to read the layers that there is room for, bytes."""
        files = list(_mapped_files())
        self._ranges = [list(_ranges(layer, files)) for layer in layers]
        sizes = [sum(length for _, length in ranges) for ranges in self._ranges]
        self.size = sum(sizes)
        self._largest = max(sizes, default=0)
        self.passing: list[int] = []
        self._threads = ThreadPoolExecutor(AHEAD)
        self._advised: dict[int, Future[None]] = {}
        for index, layer in enumerate(layers):
            layer.register_forward_hook(lambda *_, index=index: self._used(index))
        self.fit(room)
        for index in range(len(layers)):
            if index not in self.passing:
                self._advise(index, _POPULATE_READ)

    def fit(self, room: int) -> None:
        """Let no more layers stay in memory than there is room for, bytes."""
        excess = self.size - max(room, 0)
        if excess <= 0:
            return
        # Those that are fetched ahead are in memory, too.
        count = min(len(self._ranges), math.ceil(excess / self._largest) + AHEAD)
        # Other layers pass with each new number, and those that stay must be read: it only grows.
        if count > len(self.passing):
            # Evenly spaced: while layers that stay are used, the next that passes is fetched.
            self.passing = [number * len(self._ranges) // count for number in range(count)]

    def _used(self, index: int) -> None:
        if index not in self.passing:
            return
        ahead = (self.passing.index(index) + AHEAD) % len(self.passing)
        self._advise(index, _PAGEOUT)
        self._advise(self.passing[ahead], _POPULATE_READ)

    def _advise(self, index: int, advice: int) -> None:
        # On a thread of its own: it takes as long as several layers do.
        before = self._advised.get(index)
        self._advised[index] = self._threads.submit(self._call, index, advice, before)

    def _call(self, index: int, advice: int, before: Future[None] | None) -> None:
        if before:  # a layer that is still being fetched would not be dropped
            before.result()
        madvise = ctypes.CDLL(None).madvise
        for start, length in self._ranges[index]:
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


def _mapped_files() -> Iterator[range]:
    """Yield the addresses of mapped files, as /proc/self/maps lists them; none beyond Linux."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text() if maps.exists() else ""
    for start, end in re.findall(r"^(\w+)-(\w+) \S+ \S+ \S+ \d+ +/", lines, re.MULTILINE):
        yield range(int(start, 16), int(end, 16))


def _ranges(layer: nn.Module, files: list[range]) -> Iterator[tuple[int, int]]:
    """Yield start and length, bytes, of the whole pages that a layer's mapped tensors are in."""
    for tensor in layer.parameters():
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end and any(start in addresses for addresses in files):
            yield start, end - start
