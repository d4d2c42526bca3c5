"""End-to-end demo: build a bundle for this host, run it, query it, watch it over MQTT."""

import json
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from device_runtime.bundle.release import Release
from packager import cache, console, launch, profile
from packager.broker import EmbeddedBroker
from packager.build import build
from packager.errors import PackagerError, ResourceError
from packager.models.catalog import DEFAULT_MODEL
from packager.request import BuildRequest

QUESTION = "Name the capital of France."
DEVICE_ID = "edgepack-demo"
TOPIC = f"edgepack/v1/{DEVICE_ID}"
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Message:
    """An MQTT message.

    Attributes:
        name: last level of the topic.
        payload: payload, decoded from JSON.
        retained: True if the broker retained the message.
    """

    name: str
    payload: dict[str, Any]
    retained: bool


def demo(model: str, mqtt_url: str | None, show: Callable[[str], None]) -> dict[str, Any]:
    """Build a bundle, run it, query it, watch its MQTT status, stop it; then show what to try next.

    Args:
        model: model, as `edgepack build --model` takes it.
        mqtt_url: URL of the broker to use; None starts one.
        show: prints a chunk of the answer as it arrives.

    Returns:
        The answer and the received MQTT messages, for `--json`.
    """
    chosen = profile.load(profile.for_host())
    output = cache.root() / "demo" / f"{chosen.name}.epk"
    bundle = build(BuildRequest(profile=chosen, model=model, output=output))
    release = launch.unpack_for_host(bundle.path)
    with ExitStack() as stack:
        if mqtt_url is None:
            with console.step("Starting an MQTT broker for the demo"):
                mqtt_url = stack.enter_context(EmbeddedBroker()).url
        seen: queue.Queue[Message] = queue.Queue()
        client = stack.enter_context(_subscribe(mqtt_url, seen))
        messages = []
        with _running(release, mqtt_url) as url:
            console.note(f"The runtime listens on {url}")
            _wait_for(seen, "status", state="online")
            # A broker sends its retained messages with each new subscription.
            client.subscribe(f"{TOPIC}/status", qos=1)
            messages.append(_show(_wait_for(seen, "status", retained=True, state="online")))
            answer = _query(url, show)
            messages.append(_show(_wait_for(seen, "telemetry")))
        messages.append(_show(_wait_for(seen, "status", state="offline")))
    for line in next_steps(bundle.path, model):
        console.note(line)
    return {
        "bundle": str(bundle.path),
        "question": QUESTION,
        "answer": answer,
        "mqtt": [
            {
                "topic": f"{TOPIC}/{message.name}",
                "retained": message.retained,
                "payload": message.payload,
            }
            for message in messages
        ],
    }


def next_steps(bundle: Path, model: str) -> list[str]:
    """Return lines with commands to try after the demo, as they can be typed here."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "packager"]
    elif (on_path := shutil.which("edgepack")) and Path(on_path).samefile(sys.argv[0]):
        program = ["edgepack"]
    chat = shlex.join([*program, "chat", str(bundle)])
    board = [*program, "build", "--profile", "raspberry-pi"]
    if model != DEFAULT_MODEL:
        board += ["--model", model]
    return [f"Now chat with it: {chat}", f"Or build for a Raspberry Pi: {shlex.join(board)}"]


def _query(url: str, show: Callable[[str], None]) -> str:
    """Send the question to the running server, and show the answer as it streams."""
    console.note(f"Question: {QUESTION}")
    answer = ""
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "max_tokens": 64}
    with httpx2.stream(
        "POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data in ("", "[DONE]"):
                continue
            delta = json.loads(data)["choices"][0]["delta"].get("content") or ""
            answer += delta
            show(delta)
    show("\n")
    return answer


@contextmanager
def _running(release: Release, mqtt_url: str) -> Iterator[str]:
    """Run the bundle's own program as a server on a free port; yield its URL once it is ready."""
    process = subprocess.Popen(
        [
            *(release.program, "serve", "--listen", "127.0.0.1:0", "--json"),
            *("--mqtt", mqtt_url, "--device-id", DEVICE_ID, "--status-interval", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with console.step("Starting the bundle's runtime"):
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise PackagerError(f"the runtime failed to start:\n{process.communicate()[1]}")
            url = json.loads(line)["url"]
            deadline = time.monotonic() + PATIENCE_S
            while httpx2.get(f"{url}/readyz").status_code != httpx2.codes.OK:
                if time.monotonic() > deadline:
                    raise PackagerError(f"the model was not ready after {PATIENCE_S:g} s")
                time.sleep(0.05)
        yield url
        with console.step("Stopping the runtime"):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@contextmanager
def _subscribe(url: str, seen: "queue.Queue[Message]") -> Iterator[mqtt.Client]:
    """Connect a client that puts all messages of the demo's device into a queue."""
    address = urlsplit(url)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        name = message.topic.removeprefix(f"{TOPIC}/")
        seen.put(Message(name=name, payload=json.loads(message.payload), retained=message.retain))

    client.on_message = on_message
    try:
        client.connect(address.hostname or "127.0.0.1", address.port or 1883)
    except OSError as error:
        raise ResourceError(
            f"cannot connect to an MQTT broker at {url}: {error.strerror or error}",
            hint="Start the broker, or omit --mqtt: the demo then starts its own.",
        ) from None
    client.loop_start()
    try:
        client.subscribe(f"{TOPIC}/#", qos=1)
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def _wait_for(
    seen: "queue.Queue[Message]", name: str, *, retained: bool = False, **fields: str
) -> Message:
    """Wait for the next message with a name and with these fields in its payload."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            message = seen.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise PackagerError(f"no MQTT message {name} {fields or ''} arrived") from None
        if (
            message.name == name
            and message.retained >= retained
            and fields.items() <= message.payload.items()
        ):
            return message


def _show(message: Message) -> Message:
    kind = " (retained)" if message.retained else ""
    console.note(f"MQTT {TOPIC}/{message.name}{kind}: {json.dumps(message.payload)}")
    return message
