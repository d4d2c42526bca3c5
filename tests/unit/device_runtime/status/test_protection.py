"""Self-protection: when the model computes less, and when memory is taken back."""

import asyncio
import itertools
from collections.abc import Iterable

import msgspec
import pytest

from device_runtime.status import protection
from device_runtime.status.board import Board
from device_runtime.status.protection import (
    COOL_C,
    COOLING_S,
    HEAT_S,
    HOT_C,
    LOW_BYTES,
    LOW_S,
    PAUSE_S,
    SHARES,
    Governor,
    MemoryWatch,
    keep_protecting,
)
from tests.support.statuses import status

COOL = msgspec.structs.replace(status().board, temperature_c=COOL_C - 1)
HOT = msgspec.structs.replace(COOL, temperature_c=HOT_C)
WARM = msgspec.structs.replace(COOL, temperature_c=COOL_C)
THROTTLED = msgspec.structs.replace(COOL, throttled=True)
BLIND = msgspec.structs.replace(
    COOL, temperature_c=None, throttled=None, memory_available_bytes=None
)
LOW = msgspec.structs.replace(COOL, memory_available_bytes=LOW_BYTES - 1)


def shares(governor: Governor, board: Board, seconds: Iterable[float]) -> list[float]:
    return [governor.share(board, second) for second in seconds]


@pytest.mark.parametrize("board", [HOT, THROTTLED])
def test_it_computes_less_step_by_step_and_more_again(board: Board) -> None:
    governor = Governor()
    assert shares(governor, board, (100, 100 + HEAT_S - 1)) == [1.0, 1.0]
    falls = [100 + HEAT_S + number * COOLING_S for number in range(5)]
    assert shares(governor, board, falls) == [*SHARES[1:], SHARES[-1], SHARES[-1]]
    assert shares(governor, WARM, (300, 400)) == [SHARES[-1]] * 2
    rises = [500 + number * COOLING_S for number in range(5)]
    assert shares(governor, COOL, rises) == [SHARES[-1], *SHARES[-2::-1], 1.0]


def test_a_short_heat_changes_nothing() -> None:
    governor = Governor()
    for second in range(100, 200, 2):
        assert governor.share(HOT if second % 4 else COOL, second) == 1.0


def test_a_machine_without_sensors_is_left_alone() -> None:
    governor, watch = Governor(), MemoryWatch()
    for second in range(100, 300):
        assert governor.share(BLIND, second) == 1.0
        assert not watch.acts(BLIND, second)


def test_memory_is_taken_back_once_in_a_while() -> None:
    watch = MemoryWatch()
    acted = [second for second in range(100, 2000) if watch.acts(LOW, second)]
    assert acted[0] == 100 + LOW_S
    assert all(later - before == PAUSE_S for before, later in itertools.pairwise(acted))
    assert len(acted) == 4
    watch = MemoryWatch()
    assert not any(watch.acts(LOW if second % 3 else COOL, second) for second in range(100, 200))


class Worker:
    """What the worker is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def pace(self, share: float) -> None:
        self.told.append(share)

    def unload(self, reason: str) -> None:
        self.told.append(reason)


def test_the_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTERVAL_S", "HEAT_S", "LOW_S"):
        monkeypatch.setattr(protection, name, 0.0)
    worker = Worker()
    boards = iter((COOL, THROTTLED, LOW))

    async def run() -> None:
        task = asyncio.create_task(keep_protecting(worker, lambda: next(boards)))
        with pytest.raises(RuntimeError):  # the boards are used up
            await task

    asyncio.run(run())
    assert worker.told == [SHARES[1], "the device has only 31 MiB of free memory"]
