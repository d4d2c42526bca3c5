"""Self-protection: less work while the processor is too hot, and memory back before it runs out."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from device_runtime.logs import event
from device_runtime.status.board import Board

log = logging.getLogger(__name__)

INTERVAL_S = 1.0

HOT_C = 80.0
"""Temperature from which on the model computes less: the Raspberry Pi's first limit (vcgencmd)."""
COOL_C = 75.0
"""Temperature below which it computes more again."""
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Shares of the time in which the model computes, from cool to hot."""
HEAT_S = 5.0
"""Time for which it must be too hot before the share falls."""
COOLING_S = 30.0
"""Time for which it must be cool before the share rises, and between two falls."""

LOW_BYTES = 32 << 20
"""Free memory below which the kernel soon ends a program: half of what a new KV cache leaves."""
LOW_S = 5.0
"""Time for which it must be so low."""
PAUSE_S = 600.0
"""Shortest time between two times that memory is taken back: others may be the cause."""


class Governor:
    """Decides how much the model computes."""

    def __init__(self) -> None:
        self._level = 0
        self._hot_since: float | None = None
        self._cool_since: float | None = None

    def share(self, board: Board, now: float) -> float:
        """Return the share of the time in which the model shall compute.

        Args:
            board: measurements of the machine.
            now: time of a clock that never jumps, seconds.
        """
        celsius = board.temperature_c
        hot = bool(board.throttled) or (celsius is not None and celsius >= HOT_C)
        cool = not board.throttled and (celsius is None or celsius < COOL_C)
        self._hot_since = (self._hot_since or now) if hot else None
        self._cool_since = (self._cool_since or now) if cool else None
        if self._hot_since is not None and now >= self._hot_since + HEAT_S:
            self._level = min(self._level + 1, len(SHARES) - 1)
            # The next fall waits until the last one can have had an effect.
            self._hot_since = now + COOLING_S - HEAT_S
        elif self._cool_since is not None and now >= self._cool_since + COOLING_S:
            self._level = max(self._level - 1, 0)
            self._cool_since = now
        return SHARES[self._level]


class MemoryWatch:
    """Decides when memory must be taken back."""

    def __init__(self) -> None:
        self._low_since: float | None = None
        self._acted_at = -PAUSE_S

    def acts(self, board: Board, now: float) -> bool:
        """Return whether memory must be taken back; the arguments are those of `Governor.share`."""
        free = board.memory_available_bytes
        low = free is not None and free < LOW_BYTES
        self._low_since = (self._low_since or now) if low else None
        if self._low_since is None or now < self._low_since + LOW_S:
            return False
        if now < self._acted_at + PAUSE_S:
            return False
        self._acted_at = now
        return True


class Worker(Protocol):
    """The inference process: the supervisor, or a fake."""

    def pace(self, share: float) -> None:
        """See `Supervisor.pace`."""
        ...

    def unload(self, reason: str) -> None:
        """See `Supervisor.unload`."""
        ...


async def keep_protecting(worker: Worker, measure: Callable[[], Board]) -> None:
    """Look at the machine each second until cancelled, and act.

    Args:
        worker: the inference process.
        measure: returns measurements of the machine.
    """
    governor, watch, share = Governor(), MemoryWatch(), 1.0
    while True:
        now, board = time.monotonic(), measure()
        if (wanted := governor.share(board, now)) != share:
            share = wanted
            fields = {"share": share, "temperature_c": board.temperature_c}
            event(log, logging.WARNING if share < 1 else logging.INFO, "pace", **fields)
            worker.pace(share)
        if watch.acts(board, now):
            free = (board.memory_available_bytes or 0) >> 20
            worker.unload(f"the device has only {free} MiB of free memory")
        await asyncio.sleep(INTERVAL_S)
