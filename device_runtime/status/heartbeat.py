"""The writer of the heartbeat: once a second, as long as the service's event loop runs."""

import asyncio
import logging
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec

from device_runtime.heartbeat import FILE_NAME, Heartbeat
from device_runtime.logs import event
from device_runtime.status.report import BOOT_ID, RuntimeStatus

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


async def keep_beating(folder: Path, status: Callable[[], RuntimeStatus]) -> None:
    """Write the heartbeat into a folder until cancelled; failures to write are logged once.

    Args:
        folder: the runtime folder, which is in memory: nothing is flushed to a disk.
        status: returns the current status.
    """
    failed = False
    for beat in count():
        try:
            _write(folder, _heartbeat(status(), beat))
        except OSError as error:
            if not failed:
                event(log, logging.WARNING, "no_heartbeat", file=folder / FILE_NAME, reason=error)
            failed = True
        await asyncio.sleep(INTERVAL_S)


def _heartbeat(status: RuntimeStatus, beat: int) -> Heartbeat:
    return Heartbeat(
        pid=os.getpid(),
        run=BOOT_ID,
        release=status.identity.release,
        health=status.health,
        worker_restarts=status.worker_restarts,
        last_error=status.last_error,
        memory_bytes=status.memory_bytes,
        self_check=status.self_check,
        beat=beat,
    )


def _write(folder: Path, heartbeat: Heartbeat) -> None:
    """Replace the file in one step: a reader never sees a part of it."""
    aside = folder / f".{FILE_NAME}"
    aside.write_bytes(msgspec.json.encode(heartbeat))
    aside.chmod(0o644)
    aside.rename(folder / FILE_NAME)
