"""Named checks: what they say, and that the worst counts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from device_runtime.heartbeat import SelfCheck
from device_runtime.mqtt import health
from device_runtime.update.outcome import UpdateState
from device_runtime.worker.health import Health
from tests.support.statuses import status


def test_a_device_that_is_well() -> None:
    checks = health.findings(status()) | health.link(
        conflict=False, refused={}, expires=None, spool=""
    )
    assert set(checks) == {
        *("model", "release", "update", "power", "throttling", "temperature", "memory"),
        *("broker", "spool"),
    }
    assert health.worst(checks) == "ok"
    assert not any(check.detail for check in checks.values())


FAILED = SelfCheck(passed=False, tokens_per_s=None, detail="3 of 9 tokens")


@pytest.mark.parametrize(
    ("changes", "name", "worst", "says"),
    [
        ({"health": Health.STARTING}, "model", "degraded", "starting"),
        ({"health": Health.DEGRADED}, "model", "failed", "is stopped"),
        ({"health": Health.FAILING, "last_error": "SIGKILL"}, "model", "failed", "SIGKILL"),
        ({"self_check": FAILED}, "model", "degraded", "3 of 9 tokens"),
        ({"damage": "weights.data has changed"}, "release", "failed", "weights.data"),
        (
            {"update": UpdateState(state="rolled back", version="2", reason="slow")},
            *("update", "degraded", "version 2 rolled back: slow"),
        ),
    ],
)
def test_what_is_wrong_with_the_service(
    changes: dict[str, Any], name: str, worst: str, says: str
) -> None:
    checks = health.findings(status(**changes))
    assert health.worst(checks) == worst == checks[name].status
    assert says in checks[name].detail


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        ({"under_voltage": True}, "power"),
        ({"throttled": True}, "throttling"),
        ({"temperature_c": 84.0}, "temperature"),
        ({"memory_available_bytes": 1 << 20}, "memory"),
    ],
)
def test_what_is_wrong_with_the_board(measured: dict[str, Any], name: str) -> None:
    well = status()
    checks = health.findings(
        msgspec.structs.replace(well, board=msgspec.structs.replace(well.board, **measured))
    )
    assert checks[name].status == health.worst(checks) == "degraded"
    assert checks[name].detail


def test_a_board_without_sensors_has_no_such_checks() -> None:
    well = status()
    board = msgspec.structs.replace(
        well.board,
        under_voltage=None,
        throttled=None,
        temperature_c=None,
        memory_available_bytes=None,
    )
    checks = health.findings(msgspec.structs.replace(well, board=board))
    assert set(checks) == {"model", "release", "update"}


def test_what_is_wrong_with_the_connection() -> None:
    checks = health.link(
        conflict=False,
        refused={"a/b": "Not authorized"},
        expires=datetime.now(UTC) + timedelta(days=3),
        spool="the disk is full",
    )
    assert {name: check.status for name, check in checks.items()} == {
        "broker": "degraded",
        "spool": "degraded",
        "certificates": "degraded",
    }
    assert "a/b (Not authorized)" in checks["broker"].detail
    later = datetime.now(UTC) + timedelta(days=30)
    checks = health.link(conflict=True, refused={}, expires=later, spool="")
    assert "same device_id" in checks["broker"].detail
    assert checks["certificates"].status == "ok"
