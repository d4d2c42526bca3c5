"""MQTT reports against real brokers."""

import json
import queue
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from device_runtime.bundle.release import Release
from packager.broker import EmbeddedBroker
from tests.support import releases
from tests.support.serving import Serving, eventually

TOPIC = "edgepack/v1/dev-1/"


class Mosquitto:
    """A mosquitto of our own, which can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._log = folder / "log"

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-v", "-c", self._config], stdout=log, stderr=log
            )
        eventually(self._answers)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path)
    found.start()
    yield found
    found.stop()


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
    return Serving(
        release.folder, "--mqtt", url, "--device-id", "dev-1", "--status-interval", "0.2"
    )


class Messages:
    """What a subscriber of the device gets."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, dict[str, Any], bool]] = queue.Queue()

    def put(self, message: mqtt.MQTTMessage) -> None:
        name = message.topic.removeprefix(TOPIC)
        self._queue.put((name, json.loads(message.payload), message.retain))

    def next(self, wanted: str, **values: str) -> tuple[dict[str, Any], bool]:
        """The next message of a name with these values: its payload, whether it was retained."""
        while True:
            name, payload, retained = self._queue.get(timeout=60)
            if name == wanted and values.items() <= payload.items():
                return payload, retained


@contextmanager
def subscribed(port: int) -> Iterator[Messages]:
    messages = Messages()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: messages.put(message)
    client.connect("127.0.0.1", port)
    client.subscribe(f"{TOPIC}#", qos=1)
    client.loop_start()
    try:
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def retained_state(port: int) -> str:
    """What a new subscriber is told."""
    with subscribed(port) as messages:
        payload, retained = messages.next("status")
        assert retained
        return str(payload["state"])


@pytest.mark.requires("mosquitto")
def test_reports_from_start_to_end(mosquitto: Mosquitto, release: Release) -> None:
    with subscribed(mosquitto.port) as messages:
        with serving(release, mosquitto.url) as server:
            status, _ = messages.next("status", state="online")
            info, _ = messages.next("info")
            assert info["model"] == release.manifest.model.name
            assert info["release"] == release.digest
            update, _ = messages.next("update", state="none")
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
        offline, _ = messages.next("status", state="offline")
    for payload in (status, info, update, telemetry, offline):
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


def test_broker_that_knows_only_3_1_1(release: Release) -> None:
    with EmbeddedBroker() as broker:
        port = int(broker.url.rpartition(":")[2])
        with subscribed(port) as messages, serving(release, broker.url) as server:
            messages.next("status", state="online")
            messages.next("telemetry")
            server.process.terminate()
            messages.next("status", state="offline")
            assert server.process.wait(60) == 0
