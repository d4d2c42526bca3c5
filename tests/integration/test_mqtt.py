"""MQTT reports against real brokers."""

import gc
import socket
from pathlib import Path

import pytest

from device_runtime.bundle.release import Release
from device_runtime.mqtt.address import broker
from device_runtime.processor import Processor
from device_runtime.worker.placement import ProcessorState
from packager.broker import EmbeddedBroker
from tests.support import releases, statuses
from tests.support.mosquitto import DEVICE, Mosquitto, retained, subscribed
from tests.support.reporting import reporting
from tests.support.serving import Serving, eventually


@pytest.fixture(scope="module", params=["source", pytest.param("frozen", marks=pytest.mark.slow)])
def release(
    request: pytest.FixtureRequest, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """The tiny model with the program from source; the default model with the frozen one."""
    if request.param == "frozen":
        frozen: Release = request.getfixturevalue("host_release")
        return frozen
    return releases.release(tmp_path_factory.mktemp("mqtt") / "release", tiny_onnx)


def serving(release: Release, url: str) -> Serving:
    return Serving(release.folder, "--mqtt", url, "--device-id", DEVICE, "--status-interval", "0.2")


def retained_state(port: int) -> str:
    return str(retained(port, "status")["state"])


@pytest.mark.requires("mosquitto")
def test_another_processor_is_reported(mosquitto: Mosquitto) -> None:
    gpu = ProcessorState(name=Processor.GPU, gpu="Orin", reason="31.0 tokens/s on the GPU")
    with subscribed(mosquitto.port) as messages, reporting(broker(mosquitto.url)) as device:
        info, _ = messages.next("info")
        assert info["processor"] == {"name": "cpu", "gpu": "", "reason": ""}
        device.status = statuses.status(processor=gpu)
        info, _ = messages.next("info")
        assert info["processor"] == {"name": "gpu", "gpu": "Orin", "reason": gpu.reason}
    with subscribed(mosquitto.port) as messages, reporting(broker(mosquitto.url)) as device:
        device.status = statuses.status(processor=gpu)
        event, _ = messages.next("event/processor")
        assert event["detail"] == info["processor"]


@pytest.mark.requires("mosquitto")
def test_reports_from_start_to_end(mosquitto: Mosquitto, release: Release) -> None:
    with subscribed(mosquitto.port) as messages:
        with serving(release, mosquitto.url) as server:
            status, _ = messages.next("status", state="online")
            info, _ = messages.next("info")
            assert info["identity"]["model"] == release.manifest.model.name
            assert info["identity"]["release"] == release.digest
            update, _ = messages.next("update")
            assert update["update"]["state"] == "none"
            assert server.chat().status_code == 200
            telemetry, retained = messages.next("telemetry", health="ready")
            while telemetry["requests"]["completed"] == 0:
                telemetry, retained = messages.next("telemetry")
            assert not retained
            assert telemetry["tokens_per_s"]["last"] > 0
            assert telemetry["first_token_s"]["last"] > 0
            assert telemetry["memory_bytes"] > telemetry["worker_memory_bytes"] > 1 << 20
            server.process.terminate()
            assert server.process.wait(60) == 0
            stop, _ = messages.next("event/stop")
        offline, _ = messages.next("status", state="offline")
    for payload in (status, info, update, telemetry, stop, offline):
        assert payload["schema"] == 1
        assert payload["boot_id"] == status["boot_id"]
        assert payload["ts"].endswith("Z")
    assert status["seq"] < info["seq"] < telemetry["seq"] < offline["seq"]
    assert retained_state(mosquitto.port) == "offline"
    assert "as edgepack-dev-1 (p5," in mosquitto.log
    assert "as edgepack-dev-1 (p2," not in mosquitto.log


@pytest.mark.requires("mosquitto")
def test_broker_tells_of_a_killed_device(mosquitto: Mosquitto, release: Release) -> None:
    with serving(release, mosquitto.url) as server, subscribed(mosquitto.port) as messages:
        messages.next("status", state="online")
        server.process.kill()
        messages.next("status", state="offline")
    assert retained_state(mosquitto.port) == "offline"
    with serving(release, mosquitto.url):
        eventually(lambda: retained_state(mosquitto.port) == "online")


@pytest.mark.requires("mosquitto")
def test_broker_that_goes_away_and_comes_back(mosquitto: Mosquitto, release: Release) -> None:
    with serving(release, mosquitto.url) as server:
        with subscribed(mosquitto.port) as messages:
            messages.next("status", state="online")
        mosquitto.stop()
        assert server.chat().status_code == 200
        mosquitto.start()  # it has forgotten what it retained
        with subscribed(mosquitto.port) as messages:
            messages.next("status", state="online")
            messages.next("info")
            messages.next("telemetry")


def test_broker_that_is_not_there_hurts_nothing(release: Release) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{probe.getsockname()[1]}"
        with serving(release, url) as server:
            assert server.chat().status_code == 200
            server.process.terminate()
            assert server.process.wait(60) == 0


# This broker leaves a socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_that_knows_only_3_1_1(release: Release) -> None:
    with EmbeddedBroker() as broker:
        port = int(broker.url.rpartition(":")[2])
        with subscribed(port) as messages, serving(release, broker.url) as server:
            messages.next("status", state="online")
            messages.next("telemetry")
            server.process.terminate()
            messages.next("status", state="offline")
            assert server.process.wait(60) == 0
    gc.collect()
