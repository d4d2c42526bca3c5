"""`edgepack fleet update` with a real broker and simulated devices."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.subscribe import simple

from device_runtime.errors import RegistryError
from packager.errors import FleetError
from packager.fleet.rollout import Limits, Rollout
from tests.support.commands import Outcome, edgepack, refused
from tests.support.mosquitto import Mosquitto, running
from tests.support.serving import eventually
from tests.support.simulated import Devices

pytestmark = pytest.mark.requires("mosquitto")

COUNT = 60
STAGES = [3, 6, 12, 24, 9]
"""Devices of the stages: of 60, 54 are online, and 3 of those are the canary."""


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def devices(mosquitto: Mosquitto) -> Iterator[Devices]:
    running = Devices(mosquitto.port, COUNT)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


class Command:
    """`fleet update` to a bundle of its own.

    Args:
        broker: the broker.
        options: more of the command's arguments.
    """

    def __init__(self, broker: Mosquitto, *options: str) -> None:
        self.release = secrets.token_hex(32)
        self.reference = f"oci://registry.local/kitchen@sha256:{self.release}"
        self.arguments = [
            *("fleet", "update", "--to", self.reference, "--mqtt", broker.url),
            *("--soak", "0.2", "--timeout", "20", *options),
        ]

    def run(self, *more: str) -> Outcome:
        """Run it to its end."""
        return edgepack(*self.arguments, *more)

    def start(self) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            [sys.executable, "-m", "packager", *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def canary(self, devices: Devices) -> list[str]:
        """Names of its first devices."""
        limits = Limits(canary=Fraction(1, 20), abort_over=Fraction(0))
        names = [device.name for device in devices.devices.values() if device.online]
        rollout = Rollout(reference=self.reference, broker="", select={})
        return rollout.next_stage(names, limits)


def updated(devices: Devices, release: str) -> set[str]:
    """Names of the devices that have a release now."""
    return {name for name, device in devices.devices.items() if device.releases[-1] == release}


def wait_for_commands(devices: Devices, count: int) -> None:
    """Wait until the devices have so many commands."""
    eventually(lambda: len(devices.commanded) >= count)


def commanded_once(devices: Devices) -> bool:
    """Whether no device got a command twice."""
    return all(count == 1 for count in Counter(devices.commanded).values())


def rows(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Outcomes of the devices in a command's JSON."""
    return {row["device"]: row for row in json.loads(outcome.out)["devices"]}


def test_all_that_are_online_are_updated_stage_by_stage(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto)
    done = command.run("--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert (result["state"], result["reason"]) == ("finished", "")
    assert [len(stage) for stage in result["stages"]] == STAGES
    online = {device.name for device in devices.devices.values() if device.online}
    assert updated(devices, command.release) == online
    for name, row in rows(done).items():
        if name in online:
            assert (row["status"], row["release"]) == ("successful", command.release)
        else:
            assert (row["status"], row["reason"]) == ("not sent", "the device is offline")
    assert commanded_once(devices)
    for line in ("Stage 1: 3 devices, and 51 after that", "54 of 54 devices successful so far"):
        assert line in done.err
    # Nothing of it stays in the broker, and the same command has nothing left to do.
    assert left_in_the_broker(mosquitto) == []
    again = command.run()
    assert again.status == 0, again.err
    assert "This rollout has ended before; devices updated: 54" in again.err
    assert "60 devices: 54 successful, 6 not sent" in again.out
    assert len(devices.commanded) == 54


def left_in_the_broker(mosquitto: Mosquitto) -> list[str]:
    """Topics of the commands that the broker has; those of devices prove that it was asked."""
    names = ["edgepack/v1/+/cmd/+/+", "edgepack/v1/+/info"]
    messages = simple(  # type: ignore[no-untyped-call]
        names, msg_count=COUNT, hostname="127.0.0.1", port=mosquitto.port
    )
    return [message.topic for message in messages if "/cmd/" in message.topic]


def test_devices_that_come_later_are_updated_by_the_same_command(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto, "--select", "profile=jetson-orin", "--canary", "100%")
    assert command.run().status == 0
    late = devices.devices["sim-0009"]
    devices.come_back(late)
    done = command.run()
    assert done.status == 0, done.err
    assert late.releases[-1] == command.release
    assert commanded_once(devices)
    assert all(int(name[4:]) % 2 for name in updated(devices, command.release))


def test_a_bad_canary_stops_by_itself_is_named_and_rolled_back(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto)
    canary = command.canary(devices)
    bad = devices.devices[canary[1]]
    # The canary is another in each run: a device that was degraded before would name that too.
    bad.degraded, bad.fate = False, "unwell"
    done = command.run()
    assert done.status == FleetError.exit_code
    named = f"{bad.name} (health failed: model: the process keeps ending)"
    assert f"stopped: 1 of 3 devices bad, more than 2 %: {named}" in done.err
    assert "the rollout was stopped; devices rolled back: 3 of 3" in done.err
    assert "unwell" in next(line for line in done.out.splitlines() if bad.name in line)
    assert done.out.endswith("60 devices: 57 not sent, 3 rolled back\n")
    assert set(devices.commanded) == {
        topic.replace("/update/", f"/{verb}/")
        for verb in ("update", "rollback")
        for topic in devices.commanded
        if topic.split("/")[2] in canary
    }
    assert updated(devices, command.release) == set()
    assert left_in_the_broker(mosquitto) == []

    sent = len(devices.commanded)
    again = command.run()
    refused(again, FleetError.exit_code, "the rollout was stopped", "--again")
    assert len(devices.commanded) == sent

    bad.fate = ""
    mended = command.run("--again", "--canary", "100%")
    assert mended.status == 0, mended.err
    assert len(updated(devices, command.release)) == 54


def test_what_has_not_begun_is_withdrawn_and_what_has_is_rolled_back_after_its_end(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto, "--canary", "100%", "--json")
    first, second, *_ = command.canary(devices)
    devices.devices[first].fate = "refuses"
    devices.devices[second].fate = "deaf"
    done = command.run("--abort-over", "0%")
    assert done.status == FleetError.exit_code, done.err
    outcomes = rows(done)
    assert outcomes[first]["status"] == "failed"
    assert outcomes[first]["reason"].startswith("refused: it needs 900 MB")
    assert outcomes[first]["rollback"] == ""
    assert outcomes[second]["status"] == "withdrawn"
    others = [row for row in outcomes.values() if row["status"] == "successful"]
    assert len(others) == 52
    assert {row["rollback"] for row in others} == {"successful"}
    assert updated(devices, command.release) == set()
    assert left_in_the_broker(mosquitto) == []


def test_a_device_that_vanishes_is_bad(mosquitto: Mosquitto, devices: Devices) -> None:
    command = Command(mosquitto, "--json", "--timeout", "2")
    canary = command.canary(devices)
    devices.devices[canary[0]].fate = "vanishes"
    devices.devices[canary[1]].fate = "rolls back"
    done = command.run()
    assert done.status == FleetError.exit_code, done.err
    outcomes = rows(done)
    # The second is certain after a moment; the first then has until its timeout.
    assert outcomes[canary[0]]["status"] == "no answer"
    assert outcomes[canary[0]]["reason"] == "no outcome within 2 s"
    assert outcomes[canary[1]]["reason"] == "rolled back: it was not ready within 120 s"
    assert outcomes[canary[2]]["rollback"] == "successful"


def test_a_rollout_that_is_killed_goes_on_where_it_was(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto)
    for count in (1, 15):  # in the canary, and in the third stage
        process = command.start()
        wait_for_commands(devices, count)
        process.kill()
        process.communicate()
    done = command.run("--json")
    assert done.status == 0, done.err
    assert "This rollout goes on" in done.err
    assert [len(stage) for stage in json.loads(done.out)["stages"]] == STAGES
    assert len(updated(devices, command.release)) == 54
    assert len(devices.commanded) == 54
    assert commanded_once(devices)


def test_ctrl_c_stops_sending_and_tells_how_to_go_on(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto)
    process = command.start()
    wait_for_commands(devices, 9)
    other = command.run()
    refused(other, FleetError.exit_code, "another edgepack is at work on this rollout")
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted: nothing more is sent" in err
    assert "Traceback" not in err
    assert " not sent" in out.splitlines()[-1]
    assert "The same command goes on with the rest." in err
    assert len(devices.commanded) < 54


def test_devices_that_cannot_be_rolled_back_are_told(
    mosquitto: Mosquitto, devices: Devices
) -> None:
    command = Command(mosquitto, "--canary", "100%", "--select", "device=sim-0001", "--json")
    device = devices.devices["sim-0001"]
    device.verbs, device.fate = ("ping", "update"), "unwell"
    devices.come_back(device)
    done = command.run()
    assert done.status == FleetError.exit_code
    assert "1 device cannot be rolled back from here" in done.err
    row = rows(done)["sim-0001"]
    assert (row["status"], row["rollback"]) == ("unwell", "failed")
    assert "the device does not allow rollback" in row["reason"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--to", "oci://registry.local/kitchen:1"), FleetError.exit_code, "has no digest"),
        (("--to", "kitchen.epk"), RegistryError.exit_code, "not a reference to a bundle"),
        (("--select", "device=nobody"), FleetError.exit_code, "no such device"),
        (("--select", "device=sim-0009"), FleetError.exit_code, "the device is offline"),
        (("--canary", "5"), 2, "write it as 5%"),
        (("--abort-over", "101%"), 2, "write it as 5%"),
        (("--at-once", "0"), 2, "--at-once"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...],
    status: int,
    words: str,
    mosquitto: Mosquitto,
    devices: Devices,
) -> None:
    done = Command(mosquitto).run(*arguments)
    assert done.status == status
    assert words in done.err
    assert "Traceback" not in done.err
    assert devices.commanded == []
