"""Named checks that the device's health consists of; the worst of them counts."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from device_runtime.mqtt.contract import Finding
from device_runtime.status.board import Board
from device_runtime.status.protection import HOT_C, LOW_BYTES
from device_runtime.status.report import RuntimeStatus
from device_runtime.worker.health import Health

SOON = timedelta(days=14)
"""Time before the end of a certificate from which on it is reported."""

_ORDER = ("ok", "degraded", "failed")


def findings(status: RuntimeStatus) -> dict[str, Finding]:
    """Judge the status of the service and of the machine."""
    return {
        "model": _model(status),
        "release": Finding(status="failed" if status.damage else "ok", detail=status.damage),
        "update": _update(status),
        **_board(status.board),
    }


def link(
    *,
    conflict: bool,
    refused: Mapping[str, str],
    expires: datetime | None,
    spool: str,
) -> dict[str, Finding]:
    """Judge the connection to the broker.

    Args:
        conflict: another client connects with the same id.
        refused: what the broker refuses, with its reason, by topic.
        expires: end of the validity of the first certificate to expire; None without TLS.
        spool: reason why events are not on the disk; empty if they are.
    """
    checks = {"broker": Finding(status="ok"), "spool": Finding(status="ok")}
    if refused:
        what = ", ".join(f"{topic} ({reason})" for topic, reason in sorted(refused.items()))
        checks["broker"] = Finding(status="degraded", detail=f"the broker refuses {what}")
    if conflict:
        detail = "another device has the same device_id: each disconnects the other"
        checks["broker"] = Finding(status="degraded", detail=detail)
    if spool:
        detail = f"events do not survive a power cut: {spool}"
        checks["spool"] = Finding(status="degraded", detail=detail)
    if expires is not None:
        late = expires - datetime.now(UTC) < SOON
        detail = f"a certificate expires on {expires:%Y-%m-%d}" if late else ""
        checks["certificates"] = Finding(status="degraded" if late else "ok", detail=detail)
    return checks


def worst(checks: Mapping[str, Finding]) -> Literal["ok", "degraded", "failed"]:
    """Return the worst of some checks."""
    return max((check.status for check in checks.values()), key=_ORDER.index, default="ok")


def _model(status: RuntimeStatus) -> Finding:
    check = status.self_check
    match status.health:
        case Health.READY if check is not None and not check.passed:
            return Finding(status="degraded", detail=f"the self-check failed: {check.detail}")
        case Health.READY | Health.UNLOADED:
            return Finding(status="ok")
        case Health.FAILING:
            return Finding(status="failed", detail=status.last_error)
        case Health.DEGRADED:
            return Finding(
                status="failed", detail=status.last_error or "the inference process is stopped"
            )
    return Finding(status="degraded", detail=f"the service is {status.health}")


def _update(status: RuntimeStatus) -> Finding:
    update = status.update
    if update.state in ("rolled back", "failed"):
        detail = f"version {update.version} {update.state}: {update.reason}"
        return Finding(status="degraded", detail=detail)
    return Finding(status="ok")


def _board(board: Board) -> dict[str, Finding]:
    """Judge what the machine can measure; a check is missing where it cannot."""
    checks, free = {}, board.memory_available_bytes
    for name, bad, detail in (
        ("power", board.under_voltage, "the power supply is too weak"),
        ("throttling", board.throttled, "the processor is slowed down"),
        (
            "temperature",
            None if board.temperature_c is None else board.temperature_c >= HOT_C,
            f"{board.temperature_c} °C",
        ),
        (
            "memory",
            None if free is None else free < LOW_BYTES,
            f"{(free or 0) >> 20} MiB are free",
        ),
    ):
        if bad is not None:
            status: Literal["ok", "degraded"] = "degraded" if bad else "ok"
            checks[name] = Finding(status=status, detail=detail if bad else "")
    return checks
