"""`edgepack fleet` with a real broker and simulated devices."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.subscribe import simple

from device_runtime.mqtt import address
from packager.errors import FleetError
from packager.fleet.connection import connected
from tests.support.mosquitto import Mosquitto, running
from tests.support.simulated import Devices, simulated

pytestmark = pytest.mark.requires("mosquitto")

COUNT = 40


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def devices(mosquitto: Mosquitto) -> Iterator[Devices]:
    with simulated(mosquitto.port, COUNT) as running:
        yield running


def fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "packager", "fleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)


def test_watch_follows_every_device(mosquitto: Mosquitto, devices: Devices) -> None:
    done = fleet("watch", "--mqtt", mosquitto.url, "--seconds", "6", "--json")
    assert done.returncode == 0, done.stderr
    last = {row["device"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert len(last) == COUNT
    for device in devices.devices.values():
        row = last[device.name]
        assert row["state"] == ("online" if device.online else "offline")
        assert row["health"] == ("degraded" if device.degraded else "ok")
        if device.online:
            assert row["tokens_per_s"] == device.number
            assert row["last_event"] == "ready"


def test_the_table_begins_with_what_needs_attention(mosquitto: Mosquitto, devices: Devices) -> None:
    select = ("--select", "profile=jetson-orin")
    done = fleet("watch", "--mqtt", mosquitto.url, "--seconds", "4", *select)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{COUNT // 2} devices: 4 degraded, 4 offline, 16 online"
    rows = [line for line in lines if "sim-" in line]
    assert len(rows) == COUNT // 2
    assert all("degraded" in row and "91" in row for row in rows[:4])
    assert all("offline" in row for row in rows[4:8])


def test_a_fleet_of_which_the_broker_queues_only_a_part_is_whole(tmp_path: Path) -> None:
    """Mosquitto queues 1,000 messages with QoS 1 for a client, and drops more."""
    count = 500
    broker = Mosquitto(tmp_path)
    broker.start()
    devices = Devices(broker.port, count)
    try:
        done = fleet("watch", "--mqtt", broker.url, "--seconds", "4", "--json")
    finally:
        devices.close()
        broker.stop()
    assert done.returncode == 0, done.stderr
    last = {row["device"]: row for row in map(json.loads, done.stdout.splitlines())}
    whole = [row for row in last.values() if row["state"] and row["health"] and row["release"]]
    assert len(whole) == count


def test_a_message_waits_for_a_broker_that_is_away(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        with connected(address.broker(broker.url), ["b"]) as connection:
            broker.stop()
            time.sleep(1)  # until the connection is known to have ended
            connection.publish("a", b"1", retain=True)
            broker.start()
            connection.flush()
        message = simple("a", hostname="127.0.0.1", port=broker.port)  # type: ignore[no-untyped-call]
    finally:
        broker.stop()
    assert message.payload == b"1"


def test_run_tells_what_each_device_says(mosquitto: Mosquitto, devices: Devices) -> None:
    done = fleet("run", "ping", "--mqtt", mosquitto.url, "--json")
    assert done.returncode == FleetError.exit_code
    outcomes = {outcome["device"]: outcome for outcome in json.loads(done.stdout)}
    assert len(outcomes) == COUNT
    for device in devices.devices.values():
        outcome = outcomes[device.name]
        if not device.online:
            assert (outcome["status"], outcome["reason"]) == ("not sent", "the device is offline")
        elif device.degraded:
            assert (outcome["status"], outcome["reason"]) == ("failed", "too hot")
        else:
            assert (outcome["status"], outcome["result"]) == ("successful", {"verb": "ping"})


def test_run_sends_nothing_that_a_device_does_not_allow(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    devices.commanded.clear()
    done = fleet("run", "bench", "--mqtt", mosquitto.url, "--select", "profile=raspberry-pi")
    assert done.returncode == FleetError.exit_code
    assert "does not allow it" in done.stdout
    allowed = {name for name, device in devices.devices.items() if "bench" in device.verbs}
    assert {topic.split("/")[2] for topic in devices.commanded} == allowed


def test_all_successful_is_success(mosquitto: Mosquitto, devices: Devices) -> None:
    done = fleet("run", "bench", "--mqtt", mosquitto.url, "--select", "device=sim-0008")
    assert done.returncode == 0, done.stderr
    assert "successful" in done.stdout
    # Nothing of it stays in the broker.
    left = subprocess.run(
        [sys.executable, "-c", LEFT, str(mosquitto.port)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stdout == "0\n"


LEFT = """
import sys, time
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
kept = []
client.on_message = lambda _client, _data, message: kept.append(message.topic)
client.connect("127.0.0.1", int(sys.argv[1]))
client.subscribe("edgepack/v1/+/cmd/+/+", 1)
client.loop_start()
time.sleep(2)
client.disconnect()
client.loop_stop()
print(len(kept))
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--select", "colour=red"), "'colour=red' does not select devices"),
        (("--select", "device=nobody"), "no such device"),
        (("--argument", "level"), "'level' is not NAME=VALUE"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...], words: str, mosquitto: Mosquitto
) -> None:
    done = fleet("run", "ping", "--mqtt", mosquitto.url, *arguments)
    assert done.returncode in (2, FleetError.exit_code)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_not_there_is_told() -> None:
    done = fleet("watch", "--mqtt", "mqtt://127.0.0.1:9")
    assert done.returncode == FleetError.exit_code
    assert "cannot connect to mqtt://127.0.0.1:9" in done.stderr


def test_a_broker_that_wants_a_password_is_told(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, "allow_anonymous false")
    broker.start()
    try:
        done = fleet("watch", "--mqtt", broker.url)
    finally:
        broker.stop()
    assert done.returncode == FleetError.exit_code
    assert "refuses the connection: Not authorized" in done.stderr
    assert "--mqtt-password-file" in done.stderr
