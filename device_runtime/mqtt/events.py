"""Events: what the status says has happened since a second ago."""

from typing import Any

import msgspec

from device_runtime.mqtt.contract import EventType
from device_runtime.status.report import RuntimeStatus
from device_runtime.worker.health import Health

Happened = tuple[EventType, dict[str, Any]]
"""Type of an event, and its details."""


def since(before: RuntimeStatus, after: RuntimeStatus) -> list[Happened]:
    """Compare two reports of one run of the service.

    Args:
        before: the earlier one.
        after: the later one.

    Returns:
        Types and details of what has happened between them.
    """
    happened: list[Happened] = []
    if after.worker_ends != before.worker_ends:
        detail: dict[str, Any] = {"ends": after.worker_ends, "reason": after.last_error}
        happened.append(("worker_ended", detail))
    if after.processor != before.processor:
        happened.append(("processor", msgspec.to_builtins(after.processor)))
    if after.health is Health.READY and before.health is not Health.READY:
        happened.append(("ready", {"restarts": after.worker_restarts}))
    if after.health is Health.UNLOADED and before.health is not Health.UNLOADED:
        happened.append(
            ("unloaded", {"memory_available_bytes": after.board.memory_available_bytes})
        )
    if after.compute_share != before.compute_share:
        detail = {"share": after.compute_share, "temperature_c": after.board.temperature_c}
        happened.append(("pace", detail))
    if after.damage and after.damage != before.damage:
        happened.append(("damaged", {"reason": after.damage}))
    if after.update != before.update:
        update = after.update
        detail = {"state": update.state, "version": update.version, "release": update.release}
        happened.append(("update", detail | {"reason": update.reason}))
    if after.board.throttled != before.board.throttled and after.board.throttled is not None:
        detail = {"active": after.board.throttled, "temperature_c": after.board.temperature_c}
        happened.append(("throttled", detail))
    voltage = after.board.under_voltage
    if voltage != before.board.under_voltage and voltage is not None:
        happened.append(("under_voltage", {"active": voltage}))
    return happened
