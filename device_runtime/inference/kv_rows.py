"""KV caches of several sequences side by side, so that one run of the graph takes them together."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runtime.inference.onnx_arrays import around
from device_runtime.inference.onnx_session import Binding

_MAP_NORESERVE = 0x4000
"""Flag of mmap(2), which Python's module has from 3.13 on: of all these rows, most stay empty."""

_MULTIPLE = 64
"""Capacities are multiples of this many tokens, so that rows begin with pages of memory."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Inputs and outputs of a graph, by name, and the KV cache among them.

    Attributes:
        given: inputs that each run brings.
        results: outputs that each run makes.
        past: inputs for the cache: keys and values of the first layer, of the next, and so on.
        present: outputs for it, in the same order; they are written where the inputs are read.
        heads: number of heads of keys and values.
        width: length of the vector of a head.
        kind: type of the elements.
    """

    given: Sequence[str]
    results: Sequence[str]
    past: Sequence[str]
    present: Sequence[str]
    heads: int
    width: int
    kind: npt.DTypeLike

    @property
    def token_bytes(self) -> int:
        """Size of the cache of one token."""
        return len(self.past) * self.heads * self.width * np.dtype(self.kind).itemsize


class Row:
    """The KV cache of one sequence.

    Attributes:
        index: its place among the rows, which may change.
        length: tokens in it.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.length = 0


class KvRows:
    """Rows of one capacity; the system gives memory to what was written alone.

    Attributes:
        count: number of rows.
        capacity: capacity of each, tokens.
    """

    def __init__(self, layout: Layout, *, capacity: int, count: int) -> None:
        """Reserve addresses.

        Args:
            layout: the graph's inputs and outputs.
            capacity: tokens that a row must hold at least.
            count: number of rows; fewer if the system has too few addresses.

        Raises:
            OSError: it has not even addresses for one.
        """
        self.capacity = -(-capacity // _MULTIPLE) * _MULTIPLE
        self._layout = layout
        self._memory, self.count = _map(self.capacity * layout.token_bytes, count)
        shape = (len(layout.past), self.count, layout.heads, self.capacity, layout.width)
        self._caches = np.frombuffer(self._memory, layout.kind).reshape(shape)
        self._rows: list[Row | None] = [None] * self.count
        self._bindings: dict[tuple[int, int, bool], Binding] = {}

    def take(self) -> Row:
        """Take an empty row.

        Raises:
            MemoryError: all are taken.
        """
        if None not in self._rows:
            raise MemoryError(f"all {self.count} KV caches are in use")
        row = Row(self._rows.index(None))
        self._rows[row.index] = row
        return row

    def release(self, row: Row) -> None:
        """Take a row back; its memory returns to the system."""
        self._rows[row.index] = None
        self._return(row.index)

    def at(self, index: int) -> Row | None:
        """Return the row at a place; None if it is not taken."""
        return self._rows[index]

    def gather(self, rows: list[Row]) -> int:
        """Move rows next to each other; return the place of the first.

        Those that others stand between change places with these.
        """
        wanted = set(map(id, rows))
        taken = [id(row) in wanted for row in self._rows]
        starts = range(self.count - len(rows) + 1)
        first = max(starts, key=lambda start: sum(taken[start : start + len(rows)]))
        inside = range(first, first + len(rows))
        places = [place for place in inside if not taken[place]]
        for row in rows:
            if row.index not in inside:
                self._swap(row.index, places.pop())
        return first

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a row into another, by their places."""
        for cache in self._caches:
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def binding(self, first: int, count: int, *, step: bool) -> Binding:
        """Return rows next to each other as inputs and outputs of the graph.

        Args:
            first: place of the first row.
            count: number of rows.
            step: for runs of one token each.
        """
        key = (first, count, step)
        if key not in self._bindings:
            layout = self._layout
            caches = [around(cache[first : first + count]) for cache in self._caches]
            self._bindings[key] = Binding(
                dict.fromkeys(layout.given) | dict(zip(layout.past, caches, strict=True)),
                dict.fromkeys(layout.results) | dict(zip(layout.present, caches, strict=True)),
                keeps=step,
            )
        return self._bindings[key]

    def _swap(self, place: int, other: int) -> None:
        rows = self._rows
        rows[place], rows[other] = rows[other], rows[place]
        tokens = 0
        for index in (place, other):
            if (row := rows[index]) is not None:
                row.index = index
                tokens = max(tokens, row.length)
        for cache in self._caches:
            kept = cache[place, :, :tokens].copy()
            cache[place, :, :tokens] = cache[other, :, :tokens]
            cache[other, :, :tokens] = kept
        if rows[place] is None:
            self._return(place)

    def _return(self, index: int) -> None:
        """Return the memory of a row to the system."""
        size = self._caches[0, 0].nbytes
        for area in range(len(self._caches)):
            begin = (area * self.count + index) * size
            whole = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (begin + size - whole) // mmap.PAGESIZE * mmap.PAGESIZE
            if length > 0:
                self._memory.madvise(mmap.MADV_DONTNEED, whole, length)


def _map(size: int, count: int) -> tuple[mmap.mmap, int]:
    """Map memory for rows of a size, bytes; return it with the number of rows."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    while True:
        try:
            memory = mmap.mmap(-1, size * count, flags=flags)
        except (OSError, OverflowError):
            if count == 1:
                raise
            count //= 2
        else:
            # A huge page for the first token of each head would be much more than its cache.
            with suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            return memory, count
