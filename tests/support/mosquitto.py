"""A mosquitto of our own, and a subscriber of a device's topics."""

import json
import os
import queue
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.publish import single

from tests.support.ports import free_port, listens
from tests.support.serving import eventually

DEVICE = "dev-1"
TOPIC = f"edgepack/v1/{DEVICE}/"


class Mosquitto:
    """A mosquitto, which can be stopped and started again on the same port.

    Args:
        folder: folder for its files.
        options: further lines of its configuration; `allow_anonymous true` if there are none.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *(options or ["allow_anonymous true"])]
        if os.geteuid() == 0:
            lines.append("user root")  # another could not read the files of a test
        self._config.write_text("".join(f"{line}\n" for line in lines))
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it listens."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-v", "-c", self._config], stdout=log, stderr=log
            )
        eventually(self.listens)

    def stop(self) -> None:
        """Stop it; what it retained is lost."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log.read_text()

    def listens(self) -> bool:
        """Whether its port accepts connections."""
        return listens(self.port)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Mosquitto]:
    """A mosquitto that runs; its files are in the folder."""
    mosquitto = Mosquitto(folder, *options)
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


class Messages:
    """What a subscriber of the device gets, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, dict[str, Any], bool]] = queue.Queue()

    def put(self, message: mqtt.MQTTMessage) -> None:
        name = message.topic.removeprefix(TOPIC)
        self._queue.put((name, json.loads(message.payload), message.retain))

    def next(self, wanted: str, **values: Any) -> tuple[dict[str, Any], bool]:
        """The next message of a name with these values: its payload, whether it was retained."""
        deadline = time.monotonic() + 180  # others may come all the time
        while True:
            left = max(0.0, deadline - time.monotonic())
            name, payload, retained = self._queue.get(timeout=left)
            if name == wanted and values.items() <= payload.items():
                return payload, retained

    def so_far(self) -> list[tuple[str, dict[str, Any], bool]]:
        """All that has come since the last call: names, payloads, whether they were retained."""
        return [self._queue.get() for _ in range(self._queue.qsize())]


@contextmanager
def subscribed(port: int, user: str = "", password: str = "") -> Iterator[Messages]:
    """Subscribe to the device's topics."""
    messages = Messages()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: messages.put(message)
    if user:
        client.username_pw_set(user, password)
    client.connect("127.0.0.1", port)
    client.subscribe(f"{TOPIC}#", qos=1)
    client.loop_start()
    try:
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def publish(port: int, name: str, content: bytes, *, retain: bool = False) -> None:
    """Publish to a topic of the device, as somebody else."""
    single(TOPIC + name, content, qos=1, retain=retain, hostname="127.0.0.1", port=port)


def retained(port: int, name: str) -> dict[str, Any]:
    """What a new subscriber is told."""
    while True:
        with subscribed(port) as messages:
            payload, was_retained = messages.next(name)
        if was_retained:
            return payload
