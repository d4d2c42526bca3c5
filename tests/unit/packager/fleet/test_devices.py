"""Devices as their messages tell them, and messages that are not theirs."""

import json
from typing import Any

import pytest

from packager.errors import FleetError
from packager.fleet.devices import ROOT, Fleet, selection
from packager.fleet.table import summary


def send(fleet: Fleet, name: str, device: str = "a", **fields: Any) -> None:
    fleet.take(f"{ROOT}{device}/{name}", json.dumps(fields).encode())


def test_a_late_will_does_not_make_a_device_offline() -> None:
    fleet = Fleet()
    send(fleet, "status", state="online", session=5)
    send(fleet, "status", state="offline", session=4)
    assert fleet.devices["a"].state == "online"
    send(fleet, "status", state="offline", session=5)
    assert fleet.devices["a"].state == "offline"


def test_devices_of_other_versions_are_shown_as_far_as_they_tell() -> None:
    fleet = Fleet()
    send(fleet, "info", identity={"model": "m", "kit": None})
    send(fleet, "telemetry", tokens_per_s={"last": None})
    (device,) = fleet.selected()
    assert (device.model, device.profile, device.tokens_per_s) == ("m", "", None)
    assert fleet.ignored == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status", b"\xff\xfe"),
        ("status", b"[1]"),
        ("status", b"{}"),
        ("status", b"[" * 100_000),
        ("health", b'{"health": "fine", "checks": {}}'),
        ("health", b'{"health": "ok", "checks": []}'),
        ("telemetry", b'{"tokens_per_s": {"last": "fast"}}'),
        ("other", b"{}"),
        ("", b"{}"),
    ],
)
def test_what_is_not_of_a_device_is_ignored_and_counted(name: str, content: bytes) -> None:
    fleet = Fleet()
    assert fleet.take(f"{ROOT}a/{name}", content) is None
    assert fleet.ignored == 1
    assert fleet.selected() == []


def test_a_device_cannot_write_to_the_terminal() -> None:
    fleet = Fleet()
    send(fleet, "info", identity={"model": "\x1b[2J\x07red" + "x" * 1000})
    (device,) = fleet.selected()
    assert device.model.startswith("?[2J?red")
    assert len(device.model) == 200


def test_what_needs_attention_is_first() -> None:
    fleet = Fleet()
    for name, health, state in (
        ("a", "ok", "online"),
        ("b", "ok", "offline"),
        ("c", "failed", "online"),
        ("d", "degraded", "online"),
    ):
        send(fleet, "status", name, state=state, session=1)
        send(fleet, "health", name, health=health, checks={})
    assert [device.device for device in fleet.selected()] == ["c", "d", "b", "a"]
    assert summary(fleet.selected()) == "4 devices: 1 degraded, 1 failed, 1 offline, 3 online"


def test_only_changes_of_selected_devices_are_told() -> None:
    fleet = Fleet(selection(["profile=mobile", "model=m"]))
    topic = f"{ROOT}a/info"
    info = json.dumps({"identity": {"model": "m", "profile": "mobile"}}).encode()
    assert fleet.take(topic, info) is not None
    assert fleet.take(topic, info) is None
    assert fleet.take(f"{ROOT}b/info", b'{"identity": {"model": "m"}}') is None
    assert [device.device for device in fleet.selected()] == ["a"]


@pytest.mark.parametrize("pair", ["profile", "colour=red", "=x"])
def test_wrong_selections_are_refused(pair: str) -> None:
    with pytest.raises(FleetError, match="does not select devices") as caught:
        selection([pair])
    assert "profile" in caught.value.hint
