"""The devices of a broker, as their messages tell them.

Fields that a device does not send are empty: devices of several versions report to one broker.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from packager.errors import FleetError

ROOT = "edgepack/v1/"
TOPICS = tuple(
    f"{ROOT}+/{name}" for name in ("status", "info", "health", "telemetry", "update", "event/+")
)
"""Topics to subscribe to."""
SELECTABLE = ("device", "state", "health", "profile", "model", "release", "version")
"""Fields by which devices can be selected."""
_WORST_FIRST = ("failed", "degraded", "", "ok")


@dataclass(kw_only=True)
class Device:
    """A device.

    Attributes:
        device: its name.
        state: `online` or `offline`; empty if it is not known yet.
        health: `ok`, `degraded` or `failed`; empty likewise.
        problems: sentences of the checks that are not `ok`.
        profile: profile that its release was built for.
        model: name of the model.
        release: digest of the release.
        version: version of the release.
        tokens_per_s: speed of the last answer; None if unknown.
        temperature_c: temperature of the processor; None if unknown.
        last_event: type of the latest event; empty for none since the watch began.
        update: state of the latest update.
        commands: verbs that it carries out.
    """

    device: str
    state: str = ""
    health: str = ""
    problems: tuple[str, ...] = ()
    profile: str = ""
    model: str = ""
    release: str = ""
    version: str = ""
    tokens_per_s: float | None = None
    temperature_c: float | None = None
    last_event: str = ""
    update: str = ""
    commands: tuple[str, ...] = ()
    session: int = field(default=-1, repr=False)

    def row(self) -> dict[str, Any]:
        """Return what is known of it."""
        fields = asdict(self)
        del fields["session"]
        return fields

    def order(self) -> tuple[int, bool, str]:
        """Return the place in a list that begins with what needs attention."""
        return _WORST_FIRST.index(self.health), self.state == "online", self.device


class Fleet:
    """All devices that were heard of.

    Args:
        select: values of fields that a device must have.

    Attributes:
        devices: the devices by name, selected or not.
        ignored: number of messages that are not ones of a device.
    """

    def __init__(self, select: Mapping[str, str] | None = None) -> None:
        self.devices: dict[str, Device] = {}
        self.ignored = 0
        self._select = dict(select or {})

    def take(self, topic: str, content: bytes) -> Device | None:
        """Note a message; return its device if that is selected and has changed."""
        name, _, kind = topic.removeprefix(ROOT).partition("/")
        if not content:
            return None  # somebody has cleared the topic
        try:
            message = json.loads(content)
            device = self.devices.get(name) or Device(device=name)
            before = device.row()
            _NOTE[kind.partition("/")[0]](device, message)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self.ignored += 1
            return None
        self.devices[name] = device
        return device if device.row() != before and self._selects(device) else None

    def selected(self) -> list[Device]:
        """Return the selected devices, those that need attention first."""
        return sorted(filter(self._selects, self.devices.values()), key=Device.order)

    def _selects(self, device: Device) -> bool:
        return all(getattr(device, name) == value for name, value in self._select.items())


def selection(pairs: Iterable[str]) -> dict[str, str]:
    """Parse `FIELD=VALUE` pairs.

    Raises:
        FleetError: a pair is not one, or there is no such field.
    """
    chosen = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in SELECTABLE:
            raise FleetError(
                f"{pair!r} does not select devices",
                hint=f"Use FIELD=VALUE; the fields are {', '.join(SELECTABLE)}.",
            )
        chosen[name] = value
    return chosen


def _status(device: Device, message: dict[str, Any]) -> None:
    # A broker that gives up on a connection late publishes its will over a newer status.
    if message.get("session", 0) >= device.session:
        device.session = int(message.get("session", 0))
        device.state = word(message["state"])


def _info(device: Device, message: dict[str, Any]) -> None:
    identity = message["identity"]
    for name in ("profile", "model", "release", "version"):
        setattr(device, name, word(identity.get(name) or ""))
    device.commands = tuple(word(verb) for verb in message.get("commands", ()))


def _health(device: Device, message: dict[str, Any]) -> None:
    if message["health"] not in _WORST_FIRST:
        raise ValueError
    device.health = message["health"]
    device.problems = tuple(
        f"{name}: {word(check['detail'])}"
        for name, check in sorted(message["checks"].items())
        if check["status"] != "ok"
    )


def _telemetry(device: Device, message: dict[str, Any]) -> None:
    device.tokens_per_s = _number(message["tokens_per_s"].get("last"))
    device.temperature_c = _number(message.get("board", {}).get("temperature_c"))


def _update(device: Device, message: dict[str, Any]) -> None:
    device.update = word(message["update"]["state"])


def _event(device: Device, message: dict[str, Any]) -> None:
    device.last_event = word(message["type"])


_NOTE = {
    "status": _status,
    "info": _info,
    "health": _health,
    "telemetry": _telemetry,
    "update": _update,
    "event": _event,
}


def word(value: Any) -> str:
    """Return a text for a terminal: of printable characters, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text[:200]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
