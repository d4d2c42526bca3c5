"""One command to many devices, and what each of them says."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packager.fleet.connection import Connection
from packager.fleet.devices import ROOT, Device, word

ENDED = ("successful", "failed")
STATES = ("executing", *ENDED)
"""States that devices tell."""
OUTCOMES = f"{ROOT}+/cmd/+/+"
"""Topics of all commands."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a command on a device.

    Attributes:
        device: name of the device.
        status: `successful` or `failed`; `executing` before that; `not sent` if it is offline or
            the verb is not allowed; `no answer` if it has not ended in time.
        reason: reason why it was not successful.
        result: what the verb returned.
    """

    device: str
    status: str
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)


def run(
    connection: Connection,
    devices: Sequence[Device],
    verb: str,
    arguments: Mapping[str, Any],
    *,
    timeout_s: float,
    advance: Callable[[int], None],
) -> list[Outcome]:
    """Have devices carry out a verb; return the outcomes in the order of the devices.

    Commands that have not ended in time are withdrawn.

    Args:
        connection: connection that gets the topics `OUTCOMES`.
        devices: the devices.
        verb: what to do.
        arguments: its arguments.
        timeout_s: time for all of them, seconds.
        advance: called with the number of outcomes that have come.
    """
    name = f"fleet-{secrets.token_hex(6)}"
    outcomes = {device.device: _unsent(device, verb) for device in devices}
    waiting = [device for device, outcome in outcomes.items() if outcome is None]
    advance(len(outcomes) - len(waiting))
    topics = {f"{ROOT}{device}/cmd/{verb}/{name}": device for device in waiting}
    content = json.dumps({"status": "init", "arguments": dict(arguments)}).encode()
    try:
        for topic in topics:
            connection.publish(topic, content)
        deadline = time.monotonic() + timeout_s
        while waiting and (left := deadline - time.monotonic()) > 0:
            for topic, answer, _ in connection.waiting(min(left, 0.5)):
                outcome = told(topics.get(topic, ""), answer)
                if outcome and outcome.status in ENDED and outcome.device in waiting:
                    outcomes[outcome.device] = outcome
                    waiting.remove(outcome.device)
                    advance(1)
    finally:
        for topic in topics:
            connection.publish(topic, b"", retain=True)
        connection.flush()
    late = f"not within {timeout_s:g} s"
    return [
        outcome or Outcome(device=device, status="no answer", reason=late)
        for device, outcome in outcomes.items()
    ]


def obstacle(device: Device, verb: str) -> str:
    """Return the reason why a device cannot be told to do something now; empty if it can."""
    if device.state != "online":
        return "the device is offline"
    if verb not in device.commands:
        return f"the device does not allow it: mqtt_commands has {list(device.commands)}"
    return ""


def told(device: str, answer: bytes) -> Outcome | None:
    """Return the state of a command that a device's message tells; None if it tells none."""
    try:
        state = json.loads(answer)
        if not device or state["status"] not in STATES:
            return None
        return Outcome(
            device=device,
            status=state["status"],
            reason=word(state.get("reason", "")),
            result=dict(state.get("result", {})),
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _unsent(device: Device, verb: str) -> Outcome | None:
    reason = obstacle(device, verb)
    return Outcome(device=device.device, status="not sent", reason=reason) if reason else None
