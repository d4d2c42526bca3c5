"""A rollout on the devices: sends its commands, follows them, and watches the devices' health."""

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from packager import console
from packager.fleet.commands import obstacle, told
from packager.fleet.connection import Connection
from packager.fleet.devices import ROOT, Fleet
from packager.fleet.rollout import (
    PENDING,
    ROLLBACK,
    UPDATE,
    Limits,
    Rollout,
    Status,
    Step,
    ailment,
)
from packager.fleet.watch import gather
from packager.units import duration

TICK_S = 0.25
"""Time between two looks at what has come."""
SETTLE_S = 2.0
"""Time in which a device that was faster than the withdrawal of its command has said so."""


def topics(rollout: Rollout) -> tuple[str, ...]:
    """Return the topics that a rollout must hear."""
    of_devices = (f"{ROOT}+/{name}" for name in ("status", "info", "health"))
    commands = (f"{ROOT}+/cmd/{verb}/{rollout.command}" for verb in (UPDATE, ROLLBACK))
    return (*of_devices, *commands)


def clear(connection: Connection, rollout: Rollout, devices: Iterable[str], verb: str) -> None:
    """Clear the topics of commands: those that have not begun will not."""
    for device in devices:
        connection.publish(_topic(rollout, device, verb), b"", retain=True)
    connection.flush()


class Stages:
    """The stages of a rollout, on its devices.

    Args:
        connection: connection that gets `topics(rollout)`.
        fleet: the devices.
        rollout: the rollout, new or to go on with.
        limits: its bounds.
        soak_s: time for which updated devices are watched before the next stage, seconds.
        timeout_s: time for each command, seconds.
        save: function that writes the rollout to the disk.
        show: function that shows a line of progress.
    """

    def __init__(
        self,
        connection: Connection,
        fleet: Fleet,
        rollout: Rollout,
        *,
        limits: Limits,
        soak_s: float,
        timeout_s: float,
        save: Callable[[Rollout], None],
        show: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._fleet = fleet
        self._rollout = rollout
        self._limits = limits
        self._soak_s = soak_s
        self._timeout_s = timeout_s
        self._save = save
        self._show = show
        self._kept: set[str] = set()  # topics of commands that the broker has
        self._news = False
        self._clock = 0.0
        self._looked = time.monotonic()

    def gather(self) -> None:
        """Take what the broker has of the devices, and of commands that were sent before."""
        gather(self._connection, self._take)

    def unsent(self) -> dict[str, str]:
        """Return the selected devices that got no command, each with the reason why none can be
        sent now; an empty reason if one can."""
        return {
            device.device: obstacle(device, UPDATE)
            for device in self._fleet.selected()
            if device.device not in self._rollout.records
        }

    def run(self) -> None:
        """Update stage by stage, until all devices are updated or the rollout is stopped.

        A decision is on the disk before the messages that follow from it are sent.
        """
        rollout = self._rollout
        self._warn()
        self._send(rollout.pending(rollout.current(), UPDATE), UPDATE)
        while not rollout.stopped and (stage := rollout.current() or self._begin()):
            self._follow(stage)
        if rollout.stopped:
            self._take_back()
        rollout.over = True
        self._save(rollout)
        for verb in (UPDATE, ROLLBACK):
            clear(self._connection, rollout, rollout.ended(verb), verb)

    def _warn(self) -> None:
        """Tell of devices that would keep a release that turns out to be bad."""
        devices = [self._fleet.devices[name] for name, why in self.unsent().items() if not why]
        lasting = sum(ROLLBACK not in device.commands for device in devices)
        if lasting:
            console.warn(
                f"{_devices(lasting)} cannot be rolled back from here: "
                "their mqtt_commands have update, and not rollback"
            )

    def _begin(self) -> list[str]:
        """Begin the next stage; return its devices, none if none is left."""
        devices = [name for name, reason in self.unsent().items() if not reason]
        stage = self._rollout.next_stage(devices, self._limits)
        if stage:
            self._rollout.begin({name: self._fleet.devices[name].release for name in stage})
            self._save(self._rollout)
            self._send(stage, UPDATE)
        return stage

    def _follow(self, stage: list[str]) -> None:
        """Wait for the end of a stage, and judge it."""
        rollout, number = self._rollout, len(self._rollout.stages)
        after = sum(not reason for reason in self.unsent().values())
        console.note(f"Stage {number}: {_devices(len(stage))}, and {after} after that")
        deadline = self._clock + self._timeout_s
        while rollout.pending(stage, UPDATE) and not rollout.judge(self._limits):
            self._step("updating")
            if self._clock >= deadline:
                self._give_up(stage)
        if not rollout.judge(self._limits):
            self._watch(stage)
        if not rollout.judge(self._limits):
            rollout.judged += 1
        self._save(rollout)
        console.note(
            f"Stage {number}: {rollout.count('successful')} of {_devices(len(rollout.records))} "
            f"successful so far, {len(rollout.bad)} bad"
        )

    def _watch(self, stage: list[str]) -> None:
        """Watch the health of updated devices; one that is not well has as long again to recover.

        A device may be offline for a moment for reasons of its own, such as another way to the
        broker.
        """
        records, devices = self._rollout.records, self._fleet.devices
        updated = [name for name in stage if records[name].update.status == "successful"]
        end = self._clock + self._soak_s
        while self._clock < end or (
            self._clock < end + self._soak_s and any(ailment(devices.get(name)) for name in updated)
        ):
            self._step("watching their health")
        for name in updated:
            records[name].unwell = ailment(devices.get(name))

    def _take_back(self) -> None:
        """Withdraw the commands that have not begun, and roll back the devices that were updated.

        Updates that have begun cannot be withdrawn: they are rolled back when they have ended.
        """
        rollout, records = self._rollout, self._rollout.records
        console.warn(f"stopped: {rollout.stopped}")
        settled = self._clock
        if withdrawn := rollout.withdraw():
            clear(self._connection, rollout, withdrawn, UPDATE)
            settled += SETTLE_S
        self._send(rollout.pending(records, ROLLBACK), ROLLBACK)
        deadline = self._clock + self._timeout_s
        while self._clock < deadline:
            self._roll_back()
            begun = [name for name in rollout.pending(records, ROLLBACK) if self._is_there(name)]
            if self._clock >= settled and not begun and not rollout.pending(records, UPDATE):
                break
            self._step("rolling back")
        self._give_up(records)
        for record in records.values():
            if record.rollback is not None and record.rollback.status in PENDING:
                # It stays in the broker: a device that is away carries it out when it is back.
                record.rollback.give_up("the command waits in the broker")

    def _roll_back(self) -> None:
        """Have the devices roll back that this rollout has updated."""
        devices = []
        for name, record in self._rollout.records.items():
            if not record.revertible:
                continue
            record.rollback = Step()
            device = self._fleet.devices.get(name)
            if device is not None and ROLLBACK not in device.commands:
                record.rollback.take("failed", "the device does not allow rollback", {})
            else:
                devices.append(name)
        if devices:
            self._save(self._rollout)
            self._send(devices, ROLLBACK)

    def _is_there(self, name: str) -> bool:
        """Return whether a rollback is worth waiting for: it has begun, or the device is online."""
        device, step = self._fleet.devices.get(name), self._rollout.step(name, ROLLBACK)
        online = device is not None and device.state == "online"
        return online or (step is not None and step.status == "executing")

    def _give_up(self, names: Iterable[str]) -> None:
        reason = f"no outcome within {duration(self._timeout_s)}"
        clear(self._connection, self._rollout, self._rollout.give_up(names, reason), UPDATE)

    def _send(self, names: Iterable[str], verb: str) -> None:
        """Publish commands, except those that are in the broker since an earlier run."""
        command: dict[str, Any] = {"status": "init"}
        if verb == UPDATE:
            expires = datetime.now(UTC) + timedelta(seconds=self._timeout_s)
            command["expires"] = expires.isoformat()
            command["arguments"] = {"reference": self._rollout.reference}
        content = json.dumps(command).encode()
        for name in names:
            topic = _topic(self._rollout, name, verb)
            if topic not in self._kept:
                self._connection.publish(topic, content, retain=True)
        self._connection.flush()

    def _step(self, doing: str) -> None:
        """Take what comes for a moment; the clock runs while there is a connection.

        So a machine that sleeps, or an outage of the broker, takes no time from the devices.
        """
        end = time.monotonic() + TICK_S
        while (left := end - time.monotonic()) > 0:
            for topic, content, _ in self._connection.waiting(left):
                self._take(topic, content)
        passed = time.monotonic() - self._looked
        self._looked += passed
        if self._connection.connected:
            self._clock += min(passed, 2 * TICK_S)
        if self._news:
            self._save(self._rollout)
            self._news = False
        self._show(self._line(doing))

    def _take(self, topic: str, content: bytes) -> None:
        name, _, rest = topic.removeprefix(ROOT).partition("/")
        kind, _, verb = rest.rpartition("/")[0].partition("/")
        if kind != "cmd":
            self._fleet.take(topic, content)
            return
        if content:
            self._kept.add(topic)
        else:
            self._kept.discard(topic)
        step, outcome = self._rollout.step(name, verb), told(name, content)
        if step is not None and outcome is not None:
            status = cast(Status, outcome.status)
            self._news |= step.take(status, outcome.reason, outcome.result)

    def _line(self, doing: str) -> str:
        rollout = self._rollout
        waiting = sum(len(rollout.pending(rollout.records, verb)) for verb in (UPDATE, ROLLBACK))
        return (
            f"Stage {len(rollout.stages)}, {doing}: {len(rollout.records)} sent, "
            f"{rollout.count('successful')} successful, {len(rollout.bad)} bad, "
            f"{waiting} waiting"
        )


def _topic(rollout: Rollout, device: str, verb: str) -> str:
    return f"{ROOT}{device}/cmd/{verb}/{rollout.command}"


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"
