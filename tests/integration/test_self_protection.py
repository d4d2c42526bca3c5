"""The whole service while the machine is hot, or short of memory, and once it is not any more."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import releases
from tests.support.machine import Machine
from tests.support.mosquitto import DEVICE, Messages, Mosquitto, subscribed
from tests.support.serving import Serving, eventually

pytestmark = pytest.mark.requires("mosquitto", "root", "unshare")


class Service(NamedTuple):
    """A service, the machine that it runs on, and what it reports to a broker."""

    machine: Machine
    server: Serving
    events: Messages
    reports: Messages


@pytest.fixture
def service(tiny_onnx: Path, tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Service]:
    machine = Machine(tmp_path)
    release = releases.release(tmp_path / "release", tiny_onnx)
    options = ("--mqtt", mosquitto.url, "--device-id", DEVICE, "--status-interval", "0.5")
    with (
        subscribed(mosquitto.port) as events,
        subscribed(mosquitto.port) as reports,
        Serving(release.folder, *options, within=machine.within) as server,
    ):
        yield Service(machine, server, events, reports)


def test_hot_service_computes_less_until_it_is_cool(service: Service) -> None:
    machine, server, events, reports = service
    reports.next("health", health="ok")
    assert server.get("/v1/status")["compute_share"] == 1
    machine.heat(85, throttled=True)
    throttled, _ = events.next("event/throttled")
    assert throttled["detail"] == {"active": True, "temperature_c": 85.0}
    health, _ = reports.next("health", health="degraded")
    assert {"throttling", "temperature"} <= {
        name for name, check in health["checks"].items() if check["status"] != "ok"
    }
    pace, _ = events.next("event/pace")
    assert pace["detail"] == {"share": 0.75, "temperature_c": 85.0}
    assert server.get("/v1/status")["compute_share"] == 0.75
    assert server.chat().status_code == 200
    machine.heat(60, throttled=False)
    throttled, _ = events.next("event/throttled")
    assert throttled["detail"] == {"active": False, "temperature_c": 60.0}
    reports.next("health", health="ok")
    pace, _ = events.next("event/pace")
    assert pace["detail"] == {"share": 1.0, "temperature_c": 60.0}


def test_service_short_of_memory_refuses_then_lets_the_model_go(service: Service) -> None:
    machine, server, events, reports = service
    events.next("event/ready")
    reports.next("health", health="ok")
    machine.leave(48)
    # More than the KV cache that there is holds.
    refused = server.chat("word " * 20, num_beams=4)
    assert refused.status_code == 503
    assert "memory" in refused.json()["error"]["message"]
    machine.leave(16)
    health, _ = reports.next("health", health="degraded")
    assert health["checks"]["memory"]["status"] != "ok"
    unloaded, _ = events.next("event/unloaded")
    assert unloaded["detail"]["memory_available_bytes"] == 16 << 20
    assert server.get("/v1/status")["health"] == "unloaded"
    machine.leave(None)
    eventually(lambda: server.chat().status_code == 200)
    events.next("event/ready")
    reports.next("health", health="ok")
