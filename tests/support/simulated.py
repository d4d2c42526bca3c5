"""Simulated devices: they report to a broker and answer commands, over one connection.

python -m tests.support.simulated PORT COUNT BAD

This runs until Ctrl-C: a telemetry message a device in 10 s. A share BAD of them (`0.03`) bears
updates badly.
"""

import json
import sched
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from device_runtime.mqtt import health
from device_runtime.mqtt.contract import (
    CommandState,
    DeviceHealth,
    Event,
    Finding,
    Info,
    SpoolState,
    Status,
    Telemetry,
    root,
)
from device_runtime.mqtt.payloads import payload
from tests.support.statuses import status

PROFILES = ("raspberry-pi", "jetson-orin")
FATES = ("refuses", "rolls back", "unwell", "vanishes")
"""Bad ends of an update: it is refused; the guard rolls it back; the health is failed after it; the
device goes offline and stays so."""


class Device:
    """One of them: of ten, one is degraded, one is offline, and one allows `bench`.

    Attributes:
        fate: end of its updates, one of `FATES`; `deaf` if it does not see the command; empty for a
            good end.
        begun: number of updates and rollbacks that it has begun.
    """

    def __init__(self, number: int) -> None:
        self.name = f"sim-{number:04}"
        self.root = root(self.name)
        self.online = number % 10 != 9
        self.verbs = ("ping", "update", "rollback", *(("bench",) if number % 10 == 8 else ()))
        self.degraded = number % 10 == 7
        self.number = number
        self.fate = ""
        self.begun: Counter[str] = Counter()
        self.releases = [f"{number:064}"]
        self.failed = False
        self.session = 1

    def retained(self) -> dict[str, bytes]:
        """What it retains, by name."""
        identity = msgspec.structs.replace(
            status().identity, profile=PROFILES[self.number % 2], release=self.releases[-1]
        )
        checks = {}
        if self.degraded:
            checks["temperature"] = Finding(status="degraded", detail="91 °C")
        if self.failed:
            checks["model"] = Finding(status="failed", detail="the process keeps ending")
        state = "online" if self.online else "offline"
        return {
            "status": payload(Status, state=state, session=self.session),
            "info": payload(Info, identity=identity, commands=self.verbs),
            "health": payload(DeviceHealth, health=health.worst(checks), checks=checks),
        }

    def telemetry(self) -> bytes:
        """A message of telemetry."""
        fields = msgspec.structs.asdict(status())
        names = {field.name for field in msgspec.structs.fields(Telemetry)}
        own = {name: fields[name] for name in names & fields.keys() - {"ts", "boot_id", "schema"}}
        own["tokens_per_s"] = {
            "last": float(self.number),
            "average": None,
            "p50": None,
            "p95": None,
        }
        spool = SpoolState(depth=0, dropped=0)
        return payload(Telemetry, **own, spool=spool, commands_refused=0)

    def event(self) -> bytes:
        """A message of an event."""
        fields = {"id": "1", "type": "ready", "uptime_s": 1.0}
        return payload(Event, **fields)


class Devices:
    """Devices on a broker of this machine.

    Args:
        port: the broker's port.
        count: number of devices.
        restart_s: time from the begin of an update to the restart, and of that, seconds.

    Attributes:
        devices: the devices by name.
        commanded: topics of the commands that came, one for each.
    """

    def __init__(self, port: int, count: int, restart_s: float = 0.1) -> None:
        self.devices = {device.name: device for device in map(Device, range(count))}
        self.commanded: list[str] = []
        self._restart_s = restart_s
        self._later = sched.scheduler()
        self._ended = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(0)
        self._client.on_message = self._command
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("edgepack/v1/+/cmd/+/+", 1)
        self._client.loop_start()
        for device in self.devices.values():
            self._retain(device, *device.retained())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def publish(self, topic: str, content: bytes, *, retain: bool = False) -> None:
        """Publish a message; wait until the broker has it, now and then."""
        sent = self._client.publish(topic, content, qos=1, retain=retain)
        if sent.mid % 100 == 0:
            sent.wait_for_publish(30)

    def report(self, devices: Iterable[Device] | None = None) -> None:
        """Publish telemetry and an event of each that is online."""
        for device in devices or self.devices.values():
            if device.online:
                self.publish(device.root + "telemetry", device.telemetry())
                self.publish(device.root + "event/ready", device.event())

    def come_back(self, device: Device) -> None:
        """Have a device connect again, with all that it retains."""
        device.session += 1
        device.online = True
        self._retain(device, *device.retained())

    def close(self) -> None:
        """Disconnect."""
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self._later.run(blocking=False)

    def _retain(self, device: Device, *names: str) -> None:
        retained = device.retained()
        for name in names:
            self.publish(device.root + name, retained[name], retain=True)

    def _command(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not message.payload or json.loads(message.payload)["status"] != "init":
            return
        _, _, name, _, verb, _ = message.topic.split("/")
        device = self.devices[name]
        if device.fate == "deaf":
            return
        self.commanded.append(message.topic)
        tell = partial(self._tell, message.topic)
        tell("executing")
        if verb in ("update", "rollback"):
            device.begun[verb] += 1
            release = json.loads(message.payload).get("arguments", {}).get("reference", "")[-64:]
            self._after(self._change(device, release, tell))
        elif device.degraded:
            tell("failed", reason="too hot")
        else:
            tell("successful", result={"verb": verb})

    def _tell(self, topic: str, status: str, **fields: Any) -> None:
        # Not with `publish`: a callback must not wait.
        content = payload(CommandState, status=status, **fields)
        self._client.publish(topic, content, qos=1, retain=True)

    def _after(self, steps: Iterator[None]) -> None:
        """Go through the steps of a change, with a pause before each."""
        if next(steps, steps) is None:
            self._later.enter(self._restart_s, 0, self._after, (steps,))

    def _change(self, device: Device, release: str, tell: Callable[..., None]) -> Iterator[None]:
        """Update to a release, or go back if there is none."""
        yield
        fate = device.fate if release else ""
        if fate == "refuses":
            tell("failed", reason="refused: it needs 900 MB, and there are 400 MB")
            return
        device.online = False
        self._retain(device, "status")
        yield
        if fate == "vanishes":
            return
        before = list(device.releases)
        device.releases = [*before, release] if release else before[:1]
        self.come_back(device)
        yield
        if fate == "rolls back":
            device.releases = before
            self._retain(device, "info")
            tell("failed", reason="rolled back: it was not ready within 120 s")
            return
        device.failed = fate == "unwell"
        self._retain(device, "health")
        tell("successful", result={"release": device.releases[-1], "version": "2.0.0"})


@contextmanager
def simulated(port: int, count: int) -> Iterator[Devices]:
    """Devices until the end of the block, which report all the time."""
    devices, ended = Devices(port, count), threading.Event()

    def report() -> None:
        while not ended.wait(0.5):
            devices.report()

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield devices
    finally:
        ended.set()
        thread.join()
        devices.close()


def bad_numbers(count: int, share: float) -> list[int]:
    """Numbers of the devices that bear updates badly, spread over all."""
    bad = round(count * share)
    return [place * count // bad for place in range(bad)]


def main() -> None:
    """Report until Ctrl-C: each device every ten seconds."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    devices = Devices(port, count, restart_s=2.0)
    everyone = list(devices.devices.values())
    for place, number in enumerate(bad_numbers(count, float(sys.argv[3]))):
        everyone[number].fate = FATES[place % len(FATES)]
    while True:
        for part in range(20):
            devices.report(everyone[part::20])
            time.sleep(0.5)


if __name__ == "__main__":
    main()
