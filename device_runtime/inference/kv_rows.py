"""KV caches of several sequences side by side, so that one run of the graph takes them together."""

import mmap
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.onnx_arrays import around
from device_runtime.inference.onnx_session import Binding, Value

_MAP_NORESERVE = 0x4000
"""Flag of mmap(2), which Python's module has from 3.13 on: of all these rows, most stay empty."""

_MULTIPLE = 64
"""Capacities are multiples of this many tokens, so that rows begin with pages of memory."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The KV cache of a graph.

    Attributes:
        shapes: of its arrays, keys and values of each layer: number of heads, and length of the
            vector of a head.
        kind: type of the elements.
        window: tokens that layers with a sliding window see before the one they run over; 0 if
            there are none.
        windowed: places of the arrays of such layers.
    """

    shapes: tuple[tuple[int, int], ...]
    kind: npt.DTypeLike
    window: int = 0
    windowed: frozenset[int] = frozenset()

    @property
    def token_bytes(self) -> int:
        """Size of the cache of one token."""
        return sum(self._sizes)

    def prefix_bytes(self, tokens: int) -> int:
        """Return the size of what the next token sees of a number of tokens."""
        seen = min(tokens, self.window)
        return sum(
            size * (seen if place in self.windowed else tokens)
            for place, size in enumerate(self._sizes)
        )

    @property
    def _sizes(self) -> list[int]:
        return [heads * width * np.dtype(self.kind).itemsize for heads, width in self.shapes]


@dataclass(kw_only=True)
class Step:
    """Arrays and tensors that all steps of some sequences have in common.

    Attributes:
        tokens: the tokens, int64 [sequences, 1].
        positions: their positions, int64 [sequences, 1].
        outputs: the results, by name.
        binding: inputs and outputs.
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    outputs: dict[str, npt.NDArray[Any]]
    binding: Binding


class Row:
    """The KV cache of one sequence.

    Attributes:
        index: its place among the rows, which may change.
        length: tokens in it.
        begin: the first token that layers with a sliding window still hold.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.length = 0
        self.begin = 0


class KvRows:
    """Rows of one capacity; the system gives memory to what was written alone.

    Attributes:
        count: number of rows.
        capacity: capacity of each, tokens.
        mask: ones, int64 [1, tokens]: the attention mask of a sequence alone.
        steps: what steps of rows next to each other have in common, by the place of the first row
            and their number.
    """

    def __init__(self, layout: Layout, *, capacity: int, count: int) -> None:
        """Reserve addresses.

        Args:
            layout: the KV cache of the graph.
            capacity: tokens that a row must hold at least.
            count: number of rows; fewer if the system has too few addresses.

        Raises:
            MemoryError: it has not even addresses for one.
        """
        self._layout = layout
        self.capacity = -(-capacity // _MULTIPLE) * _MULTIPLE
        self._memory, self.count = _map(self.capacity * layout.token_bytes, count)
        self._caches = []
        begin = 0
        for heads, width in layout.shapes:
            shape = (self.count, heads, self.capacity, width)
            array = np.ndarray(shape, layout.kind, self._memory, begin)
            self._caches.append(array)
            begin += array.nbytes
        self._rows: list[Row | None] = [None] * self.count
        self._outputs: dict[str, npt.NDArray[Any]] = {}
        self.steps: dict[tuple[int, int], Step] = {}
        self.mask = np.ones((1, self.capacity + 1), np.int64)

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

    def drop(self, row: Row, begin: int) -> None:
        """Return the memory of all tokens before one, in layers with a sliding window."""
        for place in self._layout.windowed:
            for head in self._caches[place][row.index]:
                self._free(head[:begin])
        row.begin = begin

    def gather(self, rows: list[Row]) -> int:
        """Move rows next to each other; return the place of the first.

        Those that others stand between change places with these.
        """
        places = sorted(row.index for row in rows)
        if places[-1] - places[0] < len(rows):
            return places[0]
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
        """Copy the first tokens of a row into another, by their places; all are in memory."""
        for cache in self._caches:
            cache[target, :, :tokens] = cache[source, :, :tokens]

    def parts(self, row: Row, tokens: int) -> list[memoryview]:
        """Return the memory of the first tokens of a row: of each head of each key and value.

        Of layers with a sliding window, what the next token sees; nothing if that is gone.
        """
        begin = max(0, tokens - self._layout.window)
        if row.begin > begin:
            return []
        held = (
            head[begin if place in self._layout.windowed else 0 : tokens]
            for place, cache in enumerate(self._caches)
            for head in cache[row.index]
        )
        return [head.reshape(-1).view(np.uint8).data for head in held]

    def caches(self, first: int, count: int) -> list[Value]:
        """Return rows next to each other as tensors.

        Args:
            first: place of the first row.
            count: number of rows.
        """
        return [around(cache[first : first + count]) for cache in self._caches]

    def output(self, name: str, width: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return memory for a result of a step, [rows, 1, width], which all steps share."""
        if name not in self._outputs:
            self._outputs[name] = np.empty((self.count, 1, width), kind)
        return self._outputs[name]

    def _swap(self, place: int, other: int) -> None:
        rows = self._rows
        rows[place], rows[other] = rows[other], rows[place]
        moved = []
        for index in (place, other):
            if (row := rows[index]) is not None:
                row.index = index
                moved.append(row)
        tokens = max(row.length for row in moved)
        begin = min(row.begin for row in moved)
        for number, cache in enumerate(self._caches):
            held = slice(begin if number in self._layout.windowed else 0, tokens)
            kept = cache[place, :, held].copy()
            cache[place, :, held] = cache[other, :, held]
            cache[other, :, held] = kept
        if rows[place] is None:
            self._return(place)

    def _return(self, index: int) -> None:
        """Return the memory of a row to the system."""
        for cache in self._caches:
            self._free(cache[index])

    def _free(self, part: npt.NDArray[Any]) -> None:
        """Return the whole pages of a contiguous part of the memory."""
        begin = part.ctypes.data - self._caches[0].ctypes.data
        whole = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (begin + part.nbytes - whole) // mmap.PAGESIZE * mmap.PAGESIZE
        if length > 0:
            self._memory.madvise(mmap.MADV_DONTNEED, whole, length)


def _map(size: int, count: int) -> tuple[mmap.mmap, int]:
    """Map memory for rows of a size, bytes; return it with the number of rows."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    while True:
        try:
            memory = mmap.mmap(-1, size * count, flags=flags)
        except (OSError, OverflowError) as error:
            if count == 1:
                raise MemoryError(f"a KV cache of {size} bytes has no addresses: {error}") from None
            count //= 2
        else:
            # A huge page for the first token of each head would be much more than its cache.
            with suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            return memory, count
