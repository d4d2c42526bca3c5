"""Commands from a real broker to a real service."""

import json
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_runtime.bundle.release import Release
from device_runtime.config.option import VERBS
from tests.support import releases
from tests.support.mosquitto import (
    DEVICE,
    TOPIC,
    Messages,
    Mosquitto,
    publish,
    retained,
    subscribed,
)
from tests.support.serving import Serving, eventually

pytestmark = pytest.mark.requires("mosquitto")

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 24}


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return releases.release(tmp_path_factory.mktemp("commands") / "release", tiny_onnx)


def serving(
    release: Release, url: str, state: Path, *verbs: str, more: tuple[str, ...] = ()
) -> Serving:
    state.mkdir(exist_ok=True)
    allowed = [part for verb in verbs for part in ("--mqtt-commands", verb)]
    return Serving(
        release.folder,
        *("--mqtt", url, "--device-id", DEVICE, "--state-folder", str(state)),
        *("--status-interval", "0.2", *allowed, *more),
    )


def send(port: int, name: str, *, retain: bool = True, **fields: Any) -> None:
    publish(port, f"cmd/{name}", json.dumps({"status": "init", **fields}).encode(), retain=retain)


def outcome(messages: Messages, name: str) -> dict[str, Any]:
    """The last state of a command, once it has one."""
    while True:
        state, _ = messages.next(f"cmd/{name}")
        if state["status"] in ("successful", "failed"):
            return state


def test_ping_is_carried_out_step_by_step(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    with (
        serving(release, mosquitto.url, tmp_path / "state"),
        subscribed(mosquitto.port) as messages,
    ):
        info, _ = messages.next("info")
        assert info["commands"] == ["ping"]
        send(mosquitto.port, "ping/1")
        messages.next("cmd/ping/1", status="init")
        executing, _ = messages.next("cmd/ping/1", status="executing")
        state = outcome(messages, "ping/1")
        assert state["status"] == "successful"
        assert state["result"]["health"] == "ready"
        assert state["seq"] > executing["seq"]
        assert retained(mosquitto.port, "cmd/ping/1")["status"] == "successful"
        for verb in VERBS:
            send(mosquitto.port, f"{verb}/2")
            assert "mqtt_commands allows: ping" in outcome(messages, f"{verb}/2")["reason"]
        telemetry, _ = messages.next("telemetry", commands_refused=len(VERBS))
        assert telemetry["health"] == "ready"


def test_a_command_for_a_device_that_is_away_is_carried_out_once(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    send(mosquitto.port, "log_level/7", arguments={"level": "debug"})
    with (
        subscribed(mosquitto.port) as messages,
        serving(release, mosquitto.url, state, "log_level"),
    ):
        assert outcome(messages, "log_level/7")["result"] == {"before": "info"}
        send(mosquitto.port, "log_level/7", arguments={"level": "error"})
        assert outcome(messages, "log_level/7")["result"] == {"before": "info"}
    with (
        subscribed(mosquitto.port) as messages,
        serving(release, mosquitto.url, state, "log_level"),
    ):
        assert messages.next("cmd/log_level/7")[0]["status"] == "successful"
        send(mosquitto.port, "log_level/7", arguments={"level": "error"})
        assert "begun before" in outcome(messages, "log_level/7")["reason"]
        send(mosquitto.port, "log_level/8", arguments={"level": "debug"})
        assert outcome(messages, "log_level/8")["result"] == {"before": "info"}


def test_a_command_that_a_power_cut_ended_does_not_stay_executing(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with serving(release, mosquitto.url, state, "restart") as server:
        with subscribed(mosquitto.port) as messages:
            send(mosquitto.port, "restart/1")
            messages.next("cmd/restart/1", status="executing")
        server.process.kill()
        server.process.wait()
    with (
        serving(release, mosquitto.url, state, "restart"),
        subscribed(mosquitto.port) as messages,
    ):
        assert "restarted while" in outcome(messages, "restart/1")["reason"]


def test_reload_reads_the_configuration_again(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    settings = tmp_path / "runtime.toml"
    settings.write_text('mqtt_commands = ["reload"]\n')
    more = ("--config", str(settings))
    with (
        serving(release, mosquitto.url, tmp_path / "state", more=more) as server,
        subscribed(mosquitto.port) as messages,
    ):
        assert messages.next("info")[0]["commands"] == ["ping", "reload"]
        settings.write_text('mqtt_commands = ["reload", "explode"]\n')
        send(mosquitto.port, "reload/1")
        assert "explode" in outcome(messages, "reload/1")["reason"]
        settings.write_text('mqtt_commands = ["reload", "bench"]\n')
        send(mosquitto.port, "reload/2")
        messages.next("status", state="offline")
        assert messages.next("info")[0]["commands"] == ["bench", "ping", "reload"]
        assert outcome(messages, "reload/2")["status"] == "successful"
        assert server.process.poll() is None
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_restart_replaces_the_inference_process(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    with (
        serving(release, mosquitto.url, tmp_path / "state", "restart", "bench", "diagnostics"),
        subscribed(mosquitto.port) as messages,
    ):
        send(mosquitto.port, "restart/1")
        assert outcome(messages, "restart/1")["status"] == "successful"
        send(mosquitto.port, "bench/1")
        short = outcome(messages, "bench/1")["result"]
        assert short["tokens_per_s"] > 0
        assert [case["tokens"] for case in short["prefill"]] == [32, 128]
        send(mosquitto.port, "bench/2", arguments={"whole": True})
        whole = outcome(messages, "bench/2")["result"]
        assert [case["tokens"] for case in whole["skipped"]] == [512, 2048]  # a context of 256
        assert whole["bandwidth"]["bytes_per_s"]["median"] > 0
        assert whole["memory"]["peak_bytes"] > 0
        send(mosquitto.port, "bench/3", arguments={"whole": 1})
        assert "true or false" in outcome(messages, "bench/3")["reason"]
        send(mosquitto.port, "diagnostics/1")
        found = outcome(messages, "diagnostics/1")["result"]
        assert found["status"]["worker_restarts"] == 1
        assert found["checks"]["model"]["status"] == "ok"


def test_an_answer_comes_in_pieces(mosquitto: Mosquitto, release: Release, tmp_path: Path) -> None:
    with (
        serving(release, mosquitto.url, tmp_path / "state", "generate", "cancel") as server,
        subscribed(mosquitto.port) as messages,
    ):
        expected = server.chat(**CHAT).json()
        send(mosquitto.port, "generate/a", retain=False, arguments=CHAT)
        pieces: list[dict[str, Any]] = []
        while not pieces or not pieces[-1]["last"]:
            pieces.append(messages.next("reply/a")[0])
        assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
        text = "".join(piece["text"] for piece in pieces)
        assert text == expected["choices"][0]["message"]["content"]
        result = outcome(messages, "generate/a")["result"]
        assert result["finish_reason"] == expected["choices"][0]["finish_reason"]
        assert result["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]

        for name, arguments, reason in (
            ("b", {"messages": []}, "messages"),
            ("c", {**CHAT, "n": 2}, "more than one answer"),
        ):
            send(mosquitto.port, f"generate/{name}", retain=False, arguments=arguments)
            assert reason in outcome(messages, f"generate/{name}")["reason"]

        send(mosquitto.port, "cancel/1", arguments={"id": "nothing"})
        assert "no answer" in outcome(messages, "cancel/1")["reason"]


def test_a_prompt_does_not_stay_in_the_broker(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    send(mosquitto.port, "generate/a", arguments=CHAT)
    with (
        serving(release, mosquitto.url, tmp_path / "state", "generate"),
        subscribed(mosquitto.port) as messages,
    ):
        messages.next("cmd/generate/a", status="failed", reason="a prompt must not be retained")
        assert "Hello" not in json.dumps(retained(mosquitto.port, "cmd/generate/a"))


def test_a_response_goes_only_where_the_device_may_be_answered(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    heard: list[mqtt.MQTTMessage] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = lambda _client, _data, message: heard.append(message)
    with (
        serving(release, mosquitto.url, tmp_path / "state"),
        subscribed(mosquitto.port) as messages,
    ):
        client.connect("127.0.0.1", mosquitto.port)
        client.subscribe([("other/#", 1), (f"{TOPIC}reply/#", 1)])
        client.loop_start()
        topics = (f"{TOPIC}reply/x", "other/reply", f"{TOPIC}status")
        for number, topic in enumerate(topics):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = topic
            properties.CorrelationData = b"mine"
            command = f"{TOPIC}cmd/ping/{number}"
            client.publish(command, b'{"status": "init"}', qos=1, properties=properties)
            assert outcome(messages, f"ping/{number}")["status"] == "successful"
        eventually(lambda: len(heard) == 2)
        client.disconnect()
        client.loop_stop()
    assert [message.topic for message in heard] == [f"{TOPIC}reply/x"] * 2
    assert [json.loads(message.payload)["status"] for message in heard] == [
        "executing",
        "successful",
    ]
    assert {vars(message.properties)["CorrelationData"] for message in heard} == {b"mine"}
    assert retained(mosquitto.port, "status")["state"] in ("online", "offline")


def test_home_assistant_is_told_of_the_device(
    mosquitto: Mosquitto, release: Release, tmp_path: Path
) -> None:
    heard: list[mqtt.MQTTMessage] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.append(message)
    client.connect("127.0.0.1", mosquitto.port)
    client.subscribe("homeassistant/#", 1)
    client.loop_start()
    discovery = ("--mqtt-discovery", "homeassistant")
    with (
        serving(release, mosquitto.url, tmp_path / "state", "bench", more=discovery),
        subscribed(mosquitto.port) as messages,
    ):
        eventually(lambda: heard)
        content = json.loads(heard[0].payload)
        button = content["components"]["bench"]
        for number in range(2):
            # Each press is a command of its own, in one topic.
            press = {"status": "init", "nonce": str(number)}
            client.publish(button["command_topic"], json.dumps(press), qos=1)
            assert outcome(messages, "bench/home-assistant")["status"] == "successful"
    client.disconnect()
    client.loop_stop()
    assert heard[0].topic == f"homeassistant/device/edgepack-{DEVICE}/config"
    assert content["device"]["name"] == DEVICE
