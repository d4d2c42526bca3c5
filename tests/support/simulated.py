"""Simulated devices: they report to a broker and answer commands, over one connection.

python -m tests.support.simulated PORT COUNT    until Ctrl-C; a telemetry message a device in 10 s
"""

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class Device:
    """One of them: of ten, one is degraded, one is offline, and one allows `bench`."""

    def __init__(self, number: int) -> None:
        self.name = f"sim-{number:04}"
        self.root = root(self.name)
        self.online = number % 10 != 9
        self.verbs = ("ping", "bench") if number % 10 == 8 else ("ping",)
        self.degraded = number % 10 == 7
        self.number = number

    def retained(self) -> dict[str, bytes]:
        """What it retains, by name."""
        identity = msgspec.structs.replace(
            status().identity, profile=PROFILES[self.number % 2], release=f"{self.number:064}"
        )
        checks = (
            {"temperature": Finding(status="degraded", detail="91 °C")} if self.degraded else {}
        )
        return {
            "status": payload(Status, state="online" if self.online else "offline", session=1),
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
    """Devices on a broker of this machine."""

    def __init__(self, port: int, count: int) -> None:
        self.devices = {device.name: device for device in map(Device, range(count))}
        self.commanded: list[str] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.on_message = self._command
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("edgepack/v1/+/cmd/+/+", 1)
        self._client.loop_start()
        for device in self.devices.values():
            for name, content in device.retained().items():
                self.publish(device.root + name, content, retain=True)

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

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _command(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not message.payload or json.loads(message.payload)["status"] != "init":
            return
        self.commanded.append(message.topic)
        _, _, name, _, verb, _ = message.topic.split("/")
        device = self.devices[name]
        fields: dict[str, Any] = {"status": "successful", "result": {"verb": verb}}
        if device.degraded:
            fields = {"status": "failed", "reason": "too hot"}
        for state in ({"status": "executing"}, fields):
            content = payload(CommandState, **state)
            self._client.publish(message.topic, content, qos=1, retain=True)


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


def main() -> None:
    """Report until Ctrl-C: each device every ten seconds."""
    devices = Devices(int(sys.argv[1]), int(sys.argv[2]))
    everyone = list(devices.devices.values())
    while True:
        for part in range(20):
            devices.report(everyone[part::20])
            time.sleep(0.5)


if __name__ == "__main__":
    main()
