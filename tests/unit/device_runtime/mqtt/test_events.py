"""Events: what two reports say has happened between them."""

from typing import Any

import msgspec
import pytest

from device_runtime.mqtt import events
from device_runtime.update.outcome import UpdateState
from device_runtime.worker.health import Health
from device_runtime.worker.placement import ProcessorState
from tests.support.statuses import status


def test_nothing_has_happened() -> None:
    assert events.since(status(), status(uptime_s=9.0, queue_length=3)) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            {},
            {"worker_ends": 2, "last_error": "SIGKILL", "health": Health.DEGRADED},
            ("worker_ended", {"ends": 2, "reason": "SIGKILL"}),
        ),
        ({"health": Health.STARTING}, {}, ("ready", {"restarts": 0})),
        (
            {},
            {"health": Health.UNLOADED},
            ("unloaded", {"memory_available_bytes": 1 << 30}),
        ),
        (
            {},
            {"processor": ProcessorState(gpu="Orin", reason="the GPU failed: SIGSEGV")},
            ("processor", {"name": "cpu", "gpu": "Orin", "reason": "the GPU failed: SIGSEGV"}),
        ),
        ({}, {"damage": "weights"}, ("damaged", {"reason": "weights"})),
        ({}, {"compute_share": 0.5}, ("pace", {"share": 0.5, "temperature_c": 50.0})),
        (
            {},
            {"update": UpdateState(state="committed", release="r", version="2")},
            ("update", {"state": "committed", "version": "2", "release": "r", "reason": ""}),
        ),
    ],
)
def test_what_the_service_did(
    before: dict[str, Any], after: dict[str, Any], expected: events.Happened
) -> None:
    assert events.since(status(**before), status(**after)) == [expected]


def test_what_the_board_did() -> None:
    cool = status()
    hot = msgspec.structs.replace(
        cool, board=msgspec.structs.replace(cool.board, throttled=True, temperature_c=85.0)
    )
    weak = msgspec.structs.replace(
        cool, board=msgspec.structs.replace(cool.board, under_voltage=True)
    )
    assert events.since(cool, hot) == [("throttled", {"active": True, "temperature_c": 85.0})]
    assert events.since(hot, cool) == [("throttled", {"active": False, "temperature_c": 50.0})]
    assert events.since(cool, weak) == [("under_voltage", {"active": True})]
