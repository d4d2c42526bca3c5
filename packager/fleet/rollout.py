"""A staged update of many devices: what was sent, what is next, when to stop. No messages here.

A rollout passes through stages: first a few devices, the canary, then twice as many as before,
until all have the release. It is stopped as soon as more devices are bad than are tolerated.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import msgspec

from packager.fleet.commands import ENDED
from packager.fleet.devices import Device, word

UPDATE, ROLLBACK = "update", "rollback"
"""Verbs of the commands."""
GROWTH = 2
"""A stage has so many times the devices of the one before."""
NEXT = "its turn has not come"
"""The reason why a device that could be updated was not."""
NAMED = 5
"""Bad devices that are named in one sentence."""

Status = Literal["sent", "executing", "successful", "failed", "no answer", "withdrawn"]
PENDING = ("sent", "executing")
"""Status of a command that is not known to have ended."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a rollout.

    Attributes:
        canary: share of the devices that are updated first; at least one is.
        abort_over: share of bad devices among those updated so far from which on it is stopped,
            if it is exceeded.
        at_once: devices in a stage, at most; None for any number.
    """

    canary: Fraction
    abort_over: Fraction
    at_once: int | None = None


class Step(msgspec.Struct, kw_only=True):
    """A command to a device.

    Attributes:
        status: `sent` until the device begins; `withdrawn` if it was cleared before that.
        reason: reason why it was not successful.
        release: digest of the device's release after it.
        version: version of that release.
    """

    status: Status = "sent"
    reason: str = ""
    release: str = ""
    version: str = ""

    def take(self, status: Status, reason: str, result: Mapping[str, Any]) -> bool:
        """Take a state that the device tells; return whether that is news."""
        if status == "executing":
            # A command that is late, or ended, is told again after an outage of the broker.
            news = self.status in ("sent", "withdrawn")
        else:
            news = self.status not in ENDED
        if news:
            self.status = status
            self.reason = reason or ("no reason given" if status == "failed" else "")
            self.release = word(result.get("release", ""))
            self.version = word(result.get("version", ""))
        return news

    def give_up(self, reason: str) -> None:
        """End the wait for an outcome; one that comes later counts."""
        self.status, self.reason = "no answer", reason


class Record(msgspec.Struct, kw_only=True):
    """A device in a rollout.

    Attributes:
        before: digest of its release when the command was sent.
        update: the update.
        unwell: reason why it counts as bad although the update was successful; else empty.
        rollback: the way back, after the rollout was stopped; None without one.
    """

    before: str
    update: Step = msgspec.field(default_factory=Step)
    unwell: str = ""
    rollback: Step | None = None

    @property
    def bad(self) -> str:
        """The reason why the device counts as bad; empty if it does not."""
        if self.update.status in ("failed", "no answer"):
            return self.update.reason
        return self.unwell

    @property
    def revertible(self) -> bool:
        """This rollout gave it another release, and has not told it to go back."""
        changed = self.update.status == "successful" and self.update.release != self.before
        return changed and self.rollback is None


class Rollout(msgspec.Struct, kw_only=True):
    """A rollout, as its file keeps it.

    Attributes:
        id: identifier; the commands have it in their topics.
        reference: reference of the bundle, with its digest.
        broker: URL of the broker.
        select: fields that devices must have.
        stages: names of the devices of each stage, the last of which may be in progress.
        judged: number of stages that have ended.
        records: the devices that a command was sent to, by name.
        stopped: reason why it was stopped; empty if it was not.
        over: whether there is nothing left to do.
    """

    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(6))
    reference: str
    broker: str
    select: dict[str, str]
    stages: list[list[str]] = []
    judged: int = 0
    records: dict[str, Record] = {}
    stopped: str = ""
    over: bool = False

    @property
    def command(self) -> str:
        """Id of its commands: that of all devices, since each has topics of its own."""
        return f"rollout-{self.id}"

    @property
    def bad(self) -> dict[str, str]:
        """Reasons of the bad devices by name."""
        return {name: record.bad for name, record in self.records.items() if record.bad}

    def current(self) -> list[str]:
        """Return the names of the stage in progress; empty between stages."""
        return self.stages[-1] if self.judged < len(self.stages) else []

    def count(self, status: Status) -> int:
        """Count the devices whose update has a status."""
        return sum(record.update.status == status for record in self.records.values())

    def pending(self, devices: Iterable[str], verb: str) -> list[str]:
        """Return the names of the devices, of some, whose commands have not ended."""
        return [name for name in devices if self._status(name, verb) in PENDING]

    def ended(self, verb: str) -> list[str]:
        """Return the names of the devices that have told the end of their commands."""
        return [name for name in self.records if self._status(name, verb) in ENDED]

    def next_stage(self, devices: Iterable[str], limits: Limits) -> list[str]:
        """Choose the devices of the next stage; none if none is left.

        The order depends on the reference and the names alone: it is the same if the rollout is
        repeated, and no site or range of names comes first.

        Args:
            devices: names of the devices that can be updated now.
            limits: bounds of the rollout.
        """
        left = sorted(set(devices) - self.records.keys(), key=self._place)
        if self.stages:
            size = GROWTH * len(self.stages[-1])
        else:
            size = max(1, math.ceil(limits.canary * len(left)))
        return left[: min(size, limits.at_once or size)]

    def begin(self, releases: Mapping[str, str]) -> None:
        """Begin a stage.

        Args:
            releases: digests of the releases that its devices have, by name.
        """
        self.stages.append(list(releases))
        self.records |= {name: Record(before=release) for name, release in releases.items()}
        self.over = False

    def step(self, device: str, verb: str) -> Step | None:
        """Return a command to a device; None if there is none."""
        record = self.records.get(device)
        if record is None:
            return None
        return record.update if verb == UPDATE else record.rollback

    def judge(self, limits: Limits) -> bool:
        """Stop the rollout if too many devices are bad, also before its stage has ended.

        All devices of that stage count as updated, so more outcomes could only make it worse.
        """
        bad, sent = self.bad, len(self.records)
        if len(bad) <= limits.abort_over * sent:
            return False
        names = [f"{name} ({reason})" for name, reason in list(bad.items())[:NAMED]]
        more = [f"{len(bad) - NAMED} more"] if len(bad) > NAMED else []
        share = f"{float(100 * limits.abort_over):g} %"
        self.stopped = (
            f"{len(bad)} of {sent} devices bad, more than {share}: {', '.join(names + more)}"
        )
        return True

    def withdraw(self) -> list[str]:
        """Withdraw the updates that have not begun; return the names of their devices."""
        names = [name for name, record in self.records.items() if record.update.status == "sent"]
        for name in names:
            self.records[name].update.status = "withdrawn"
        return names

    def give_up(self, devices: Iterable[str], reason: str) -> list[str]:
        """End the wait for updates; return the names of the devices that have not begun theirs."""
        late = self.pending(devices, UPDATE)
        waiting = [name for name in late if self.records[name].update.status == "sent"]
        for name in late:
            self.records[name].update.give_up(reason)
        return waiting

    def _status(self, device: str, verb: str) -> Status | None:
        step = self.step(device, verb)
        return step.status if step is not None else None

    def _place(self, device: str) -> bytes:
        return hashlib.sha256(f"{self.reference} {device}".encode()).digest()


def ailment(device: Device | None) -> str:
    """Return the reason why an updated device is not well; empty if it is."""
    if device is None or device.state != "online":
        return "offline after the update"
    if device.health == "failed":
        return f"health failed: {'; '.join(device.problems) or 'no reason given'}"
    return ""


def outcomes(rollout: Rollout, unsent: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a JSON-able outcome of each device, in the order of the stages.

    Args:
        rollout: the rollout.
        unsent: reasons why other devices got nothing, by name.
    """
    rows = [
        _row(name, number, rollout.records[name])
        for number, stage in enumerate(rollout.stages, 1)
        for name in stage
    ]
    none = Record(before="")
    for name, reason in unsent.items():
        rows.append(_row(name, None, none) | {"status": "not sent", "reason": reason or NEXT})
    return rows


def _row(name: str, stage: int | None, record: Record) -> dict[str, Any]:
    update, rollback = record.update, record.rollback
    latest = rollback if rollback is not None and rollback.status == "successful" else update
    reasons = (update.reason, record.unwell, rollback.reason if rollback is not None else "")
    return {
        "device": name,
        "stage": stage,
        "status": "unwell" if record.unwell else update.status,
        "rollback": rollback.status if rollback is not None else "",
        "reason": "; ".join(filter(None, reasons)),
        "release": latest.release,
        "version": latest.version,
    }
