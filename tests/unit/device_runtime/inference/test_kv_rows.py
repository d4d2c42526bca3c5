"""KV caches side by side."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_runtime.inference.kv_rows import KvRows, Layout, Row
from device_runtime.inference.onnx_arrays import view_of

LAYOUT = Layout(arrays=2, heads=2, width=16, kind=np.float32)
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


def contents(caches: KvRows, row: Row) -> np.ndarray:
    """The memory of a row, [keys and values, heads, tokens, width]."""
    return caches._caches[:, row.index]


def numbers(caches: KvRows, *taken: Row) -> list[set[float]]:
    return [set(contents(caches, row)[:, :, : row.length].ravel().tolist()) for row in taken]


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
    kept = contents(caches, target)
    assert set(kept[:, :, :20].ravel().tolist()) == {7.0}
    assert set(kept[:, :, 20:30].ravel().tolist()) == {1.0}


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
    pages = contents(caches, row).nbytes // mmap.PAGESIZE
    before = resident()
    caches.release(row)
    assert before - resident() > pages * 0.9
    again = caches.take()
    again.length = 16384
    assert numbers(caches, again) == [{0.0}]


def resident() -> int:
    """Pages of this process that have memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


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
