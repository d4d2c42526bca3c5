"""Home Assistant's discovery: every template gives a value for the device's real messages."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jinja2
import msgspec
import pytest

from device_runtime.config.option import check_topic
from device_runtime.mqtt import health, home_assistant
from device_runtime.mqtt.contract import (
    Command,
    CommandState,
    DeviceHealth,
    SpoolState,
    Status,
    Telemetry,
)
from device_runtime.mqtt.payloads import payload
from device_runtime.status.board import Board
from tests.support.statuses import status

ROOT = "edgepack/v1/dev-1/"
TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)  # as Home Assistant's, but strict


def discovered(*verbs: str) -> dict[str, Any]:
    message = home_assistant.discovery(ROOT, "dev-1", status().identity, verbs, 10.0)
    content: dict[str, Any] = json.loads(message)
    return content


def published(board: Board) -> dict[str, Any]:
    """The device's messages by topic."""
    report = status(board=board)
    checks = health.findings(report)
    fields = msgspec.structs.asdict(report)
    names = {field.name for field in msgspec.structs.fields(Telemetry)}
    own = {name: fields[name] for name in names & fields.keys() - {"ts", "boot_id", "schema"}}
    own |= {"spool": SpoolState(depth=0, dropped=2), "commands_refused": 0}
    messages = {
        "status": payload(Status, state="online", session=1),
        "health": payload(DeviceHealth, health="ok", checks=checks),
        "telemetry": payload(Telemetry, **own),
    }
    return {ROOT + name: json.loads(content) for name, content in messages.items()}


def rendered(template: str, message: dict[str, Any]) -> str:
    return TEMPLATES.from_string(template).render(value_json=message)


BOARD = Board(
    memory_available_bytes=1 << 30,
    disk_free_bytes=1 << 31,
    temperature_c=51.5,
    throttled=True,
    under_voltage=False,
)
UNKNOWN = Board(
    memory_available_bytes=None,
    disk_free_bytes=None,
    temperature_c=None,
    throttled=None,
    under_voltage=None,
)


@pytest.mark.parametrize("board", [BOARD, UNKNOWN])
def test_every_sensor_has_a_value(board: Board) -> None:
    messages = published(board)
    values = {
        name: rendered(part["value_template"], messages[part["state_topic"]])
        for name, part in discovered()["components"].items()
    }
    measured = {"temperature": "51.5", "throttled": "True", "under_voltage": "False"}
    unknown = dict.fromkeys(measured, "None")  # Home Assistant's word for unknown
    expected = measured if board is BOARD else unknown
    assert expected.items() <= values.items()
    assert values["health"] == "ok"
    assert values["dropped"] == "2"


def test_the_device_is_available_while_it_is_online() -> None:
    (availability,) = discovered()["availability"]
    message = published(BOARD)[availability["topic"]]
    assert rendered(availability["value_template"], message) == availability["payload_available"]


def test_buttons_are_those_of_allowed_commands() -> None:
    assert "restart" not in discovered("ping", "generate")["components"]
    parts = discovered("ping", "restart", "bench", "generate")["components"]
    buttons = [name for name, part in parts.items() if part["platform"] == "button"]
    assert sorted(buttons) == ["bench", "restart"]
    now = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    template = TEMPLATES.from_string(parts["restart"]["command_template"])
    command = msgspec.json.decode(
        template.render(now=lambda: now, timedelta=timedelta), type=Command
    )
    assert command.nonce == now.isoformat()
    assert command.expires == now + timedelta(minutes=1)
    assert parts["restart"]["command_topic"] == f"{ROOT}cmd/restart/home-assistant"
    assert not parts["restart"]["retain"]


def test_what_the_speed_button_measures_has_a_sensor() -> None:
    assert "measured_speed" not in discovered("restart")["components"]
    parts = discovered("bench")["components"]
    sensor = parts["measured_speed"]
    assert sensor["state_topic"] == parts["bench"]["command_topic"]
    states = (
        payload(CommandState, status="executing", reason="", result={}),
        payload(CommandState, status="failed", reason="too busy", result={}),
        payload(CommandState, status="successful", reason="", result={"tokens_per_s": 42.5}),
    )
    messages = [{"status": "init"}, *map(json.loads, states)]
    values = [rendered(sensor["value_template"], message) for message in messages]
    assert values == ["", "", "", "42.5"]


def test_names_are_unique() -> None:
    parts = discovered("restart", "bench")["components"].values()
    assert len({part["unique_id"] for part in parts}) == len(parts)


def test_the_topic_is_one_that_home_assistant_reads() -> None:
    topic = home_assistant.topic("homeassistant", "kitchen.1")
    assert topic == "homeassistant/device/edgepack-kitchen-1/config"
    check_topic("homeassistant")
    for wrong in ("", "a/#", "a//b", "+", "a b", "x" * 65):
        with pytest.raises(ValueError, match="is not a topic"):
            check_topic(wrong)
