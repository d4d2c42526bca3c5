"""Messages to systemd, by the protocol of sd_notify(3): ready, stopping, and signs of life.

Without systemd, or with another type of unit, nothing is sent.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from device_runtime.logs import event
from device_runtime.status.report import RuntimeStatus
from device_runtime.worker.health import Health

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
LOADING_S = 60
"""Time that systemd still waits for a model that is being loaded, from each message on."""
_VARIABLE = "NOTIFY_SOCKET"


def notify(*lines: str) -> None:
    """Send assignments, such as `READY=1`, to systemd if it wants them."""
    address = os.environ.get(_VARIABLE, "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # a busy systemd must not hold up the service
        # A name that begins with @ is in the abstract namespace: unix(7).
        channel.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))


async def keep_notifying(status: Callable[[], RuntimeStatus], stuck: Callable[[], str]) -> None:
    """Send signs of life each second until cancelled; none while something is stuck.

    Args:
        status: returns the current status.
        stuck: returns which part of the service makes no progress; empty if all do.
    """
    ready, before = False, ""
    while True:
        if not ready:
            ready = status().health is not Health.STARTING
            state = "READY=1" if ready else f"EXTEND_TIMEOUT_USEC={LOADING_S * 1_000_000}"
            send(state, "STATUS=serving" if ready else "STATUS=loading the model")
        reason = stuck()
        if not reason:
            send("WATCHDOG=1")
        elif reason != before:
            event(log, logging.ERROR, "stuck", part=reason)
        before = reason
        await asyncio.sleep(INTERVAL_S)


def send(*lines: str) -> None:
    """Send assignments as `notify` does; a failure is logged, and ends nothing."""
    try:
        notify(*lines)
    except OSError as error:
        event(log, logging.WARNING, "systemd_not_notified", reason=error)
