"""KV caches side by side."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_runtime.inference.kv_rows import KvRows, Layout, Row
from device_runtime.inference.onnx_arrays import view_of

LAYOUT = Layout(shapes=((2, 16),) * 2, kind=np.float32)
CAPACITY = 128


def rows(count: int = 5) -> KvRows:
    return KvRows(LAYOUT, capacity=CAPACITY, count=count)


def filled(caches: KvRows, number: float, length: int) -> Row:
    """A row whose keys and values have a number of their own."""
    row = caches.take()
    row.length = length
    for array in contents(caches, row):
        array[:, :length] = number
    return row


def contents(caches: KvRows, row: Row) -> list[np.ndarray]:
    """The memory of a row, for each of keys and values [heads, tokens, width]."""
    return [cache[row.index] for cache in caches._caches]


def numbers(caches: KvRows, *taken: Row) -> list[set[float]]:
    return [held(caches, row, slice(0, row.length)) for row in taken]


def held(caches: KvRows, row: Row, tokens: slice) -> set[float]:
    """The numbers in some tokens of a row."""
    return {x for array in contents(caches, row) for x in array[:, tokens].ravel().tolist()}


def test_size_of_a_token() -> None:
    assert LAYOUT.token_bytes == 2 * 2 * 16 * 4


def test_rows_end_where_there_are_no_more() -> None:
    caches = rows(2)
    first, second = caches.take(), caches.take()
    assert {first.index, second.index} == {0, 1}
    with pytest.raises(MemoryError, match="all 2"):
        caches.take()
    caches.release(first)
    assert caches.take().index == first.index


def test_gathered_rows_keep_their_contents() -> None:
    caches = rows()
    taken = [filled(caches, number, 10 + number) for number in range(5)]
    caches.release(taken[2])
    wanted = [taken[0], taken[3], taken[4]]
    first = caches.gather(wanted)
    places = sorted(row.index for row in wanted)
    assert places == [first, first + 1, first + 2]
    alive = [row for row in taken if row is not taken[2]]
    assert numbers(caches, *alive) == [{0.0}, {1.0}, {3.0}, {4.0}]
    assert len({row.index for row in alive}) == 4


def test_rows_that_are_together_stay() -> None:
    caches = rows()
    taken = [caches.take() for _ in range(5)]
    places = [row.index for row in taken]
    assert caches.gather(taken[1:4]) == places[1]
    assert caches.gather([taken[4]]) == places[4]
    assert [row.index for row in taken] == places


def test_copy_of_a_row() -> None:
    caches = rows()
    source, target = filled(caches, 7, 20), filled(caches, 1, 30)
    caches.copy(source.index, target.index, 20)
    assert held(caches, target, slice(0, 20)) == {7.0}
    assert held(caches, target, slice(20, 30)) == {1.0}


def test_rows_as_tensors() -> None:
    caches = rows()
    for number in range(3):
        filled(caches, number, CAPACITY)
    for value in caches.caches(1, 2):
        array = view_of(value)
        assert array.shape == (2, 2, CAPACITY, 16)
        assert [set(row.ravel().tolist()) for row in array] == [{1.0}, {2.0}]


def test_released_row_holds_no_memory() -> None:
    caches = KvRows(LAYOUT, capacity=16384, count=2)
    row = filled(caches, 3, 16384)
    pages = sum(array.nbytes for array in contents(caches, row)) // mmap.PAGESIZE
    before = resident(caches)
    caches.release(row)
    assert before - resident(caches) == pages
    again = caches.take()
    again.length = 16384
    assert numbers(caches, again) == [{0.0}]


WINDOWED = Layout(
    shapes=((2, 16), (2, 16), (1, 32), (1, 32)),
    kind=np.float32,
    window=100,
    windowed=frozenset({2, 3}),
)
"""A layer that sees all tokens, and one with a sliding window and heads of another size."""


def test_size_of_a_prefix_with_a_sliding_window() -> None:
    assert WINDOWED.token_bytes == 512
    assert WINDOWED.prefix_bytes(60) == 60 * 512
    assert WINDOWED.prefix_bytes(1000) == 1000 * 256 + 100 * 256


def test_dropped_tokens_hold_no_memory_in_layers_with_a_sliding_window() -> None:
    caches = KvRows(WINDOWED, capacity=16384, count=2)
    row = filled(caches, 3, 16384)
    other = filled(caches, 4, 16384)
    before = resident(caches)
    caches.drop(row, 16000)
    assert before - resident(caches) == 16000 * 256 // mmap.PAGESIZE
    full, _, keys, values = contents(caches, row)
    assert set(full.ravel().tolist()) == {3.0}
    for array in (keys, values):
        assert set(array[:, 16000:].ravel().tolist()) == {3.0}
        assert set(array[:, :15000].ravel().tolist()) == {0.0}
    assert numbers(caches, other) == [{4.0}]


def test_rows_with_a_sliding_window_change_places() -> None:
    caches = KvRows(WINDOWED, capacity=16384, count=4)
    taken = [filled(caches, number, 16384) for number in range(4)]
    for number, row in enumerate(taken):
        caches.drop(row, 1000 * number)
    before = resident(caches)
    caches.gather([taken[0], taken[3]])
    # Dropped tokens of one of them got memory again, at most.
    assert resident(caches) - before <= 3000 * 256 // mmap.PAGESIZE
    assert abs(taken[0].index - taken[3].index) == 1
    for number, row in enumerate(taken):
        assert held(caches, row, slice(3000, 16384)) == {float(number)}
        assert held(caches, row, slice(1000 * number, 1000 * number + 1)) == {float(number)}


def test_parts_of_a_row_with_a_sliding_window() -> None:
    caches = KvRows(WINDOWED, capacity=16384, count=1)
    row = filled(caches, 5, 2000)
    sizes = [part.nbytes for part in caches.parts(row, 1500)]
    assert sizes == [1500 * 64] * 4 + [100 * 128] * 2
    assert sum(sizes) == WINDOWED.prefix_bytes(1500)
    caches.drop(row, 1400)
    assert [part.nbytes for part in caches.parts(row, 1500)] == sizes
    assert caches.parts(row, 1499) == []


def resident(caches: KvRows) -> int:
    """Pages of KV caches that have memory: the last bit of their entries (proc_pid_pagemap(5))."""
    size = sum(cache.nbytes for cache in caches._caches)
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(caches._caches[0].ctypes.data // mmap.PAGESIZE * 8)
        entries = np.frombuffer(file.read(size // mmap.PAGESIZE * 8), np.uint64)
    return int((entries >> np.uint64(63)).sum())


def test_fewer_rows_where_addresses_are_short() -> None:
    code = (
        "import resource\n"
        "from device_runtime.inference.kv_rows import KvRows\n"
        "from tests.unit.device_runtime.inference.test_kv_rows import LAYOUT\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = used + (300 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "rows = KvRows(LAYOUT, capacity=100 * 1024 * 4, count=16)\n"
        "print(rows.count)\n"
        "rows.take()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 1 <= int(ended.stdout) < 16


def test_row_without_addresses_is_a_lack_of_memory() -> None:
    with pytest.raises(MemoryError, match="addresses"):
        KvRows(LAYOUT, capacity=1 << 50, count=2)
