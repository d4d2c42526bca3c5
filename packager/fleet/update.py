"""`edgepack fleet update`: a rollout from its file to its report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from device_runtime.mqtt.address import Broker
from device_runtime.update.registry.reference import parse
from packager import console
from packager.errors import FleetError
from packager.fleet.connection import connected
from packager.fleet.devices import Fleet
from packager.fleet.rollout import NEXT, ROLLBACK, UPDATE, Limits, Rollout, outcomes
from packager.fleet.stages import Stages, clear, topics
from packager.fleet.store import Store


@dataclass(frozen=True, kw_only=True)
class Result:
    """A rollout after the command.

    Attributes:
        rollout: the rollout.
        unsent: reasons why selected devices got nothing, by name.
        interrupted: Ctrl-C came before the end.
    """

    rollout: Rollout
    unsent: Mapping[str, str]
    interrupted: bool


def update(
    broker: Broker,
    reference: str,
    select: dict[str, str],
    *,
    limits: Limits,
    soak_s: float,
    timeout_s: float,
    again: bool,
) -> Result:
    """Begin a rollout, or go on with one that was interrupted, until it has ended or Ctrl-C.

    Args:
        broker: the devices' broker.
        reference: reference of the bundle.
        select: fields that devices must have.
        limits: bounds of the rollout.
        soak_s: time for which a stage is watched, seconds.
        timeout_s: time for each command, seconds.
        again: start over a rollout that has ended.

    Raises:
        FleetError: the reference lacks a digest, the broker cannot be reached, no device can be
            updated, or another process is at work on the rollout.
        RegistryError: the reference is not valid.
        ResourceError: the progress cannot be written.
    """
    rollout = Rollout(reference=pinned(reference), broker=broker.url, select=select)
    store = Store(rollout)
    with store.locked():
        earlier = store.load()
        if again and earlier is not None and not earlier.over:
            raise FleetError("this rollout has not ended", hint="Without --again, it goes on.")
        if earlier is not None and not again:
            rollout = earlier
            state = "has ended before" if earlier.over else "goes on"
            console.note(f"This rollout {state}; devices updated: {earlier.count('successful')}")
        with connected(broker, topics(rollout)) as connection, console.live_line() as show:
            stages = Stages(
                connection,
                Fleet(select),
                rollout,
                limits=limits,
                soak_s=soak_s,
                timeout_s=timeout_s,
                save=store.save,
                show=show,
            )
            stages.gather()
            unsent = stages.unsent()
            if not rollout.records and not unsent:
                raise FleetError("no such device", hint="See edgepack fleet watch.")
            if not rollout.records and all(unsent.values()):
                name, reason = next(iter(unsent.items()))
                raise FleetError(
                    f"no device can be updated now; {name}: {reason}",
                    hint="Devices must be online, and have update in their mqtt_commands.",
                )
            if again and earlier is not None:
                for verb in (UPDATE, ROLLBACK):  # what still waits there would be carried out
                    clear(connection, earlier, earlier.records, verb)
            interrupted = False
            try:
                stages.run()
            except KeyboardInterrupt:
                interrupted = True
            return Result(rollout=rollout, unsent=stages.unsent(), interrupted=interrupted)


def pinned(text: str) -> str:
    """Return a reference without its tag.

    Raises:
        FleetError: it has no digest.
        RegistryError: it is not valid.
    """
    reference = parse(text)
    if reference.digest is None:
        raise FleetError(
            f"{text} has no digest, and a tag may name another bundle later",
            hint="Use the reference that edgepack push prints: oci://...@sha256:...",
        )
    return reference.at(reference.digest)


def report(result: Result, *, as_json: bool) -> int:
    """Print the outcomes; of devices of which there is nothing to say, the number alone.

    Returns:
        The exit code.

    Raises:
        FleetError: the rollout was stopped.
    """
    rollout, rows = result.rollout, outcomes(result.rollout, result.unsent)
    if as_json:
        state = "stopped" if rollout.stopped else "finished"
        console.result_json(
            {
                "rollout": rollout.id,
                "reference": rollout.reference,
                "state": "interrupted" if result.interrupted else state,
                "reason": rollout.stopped,
                "stages": rollout.stages,
                "devices": rows,
            }
        )
    else:
        table = [
            [str(row[name] or "") for name in ("device", "stage", "status", "rollback", "reason")]
            for row in rows
            if row["reason"] not in ("", NEXT)
        ]
        if table:
            console.table("", ["device", "stage", "update", "rollback", "reason"], table)
        ends = Counter(
            "rolled back" if row["rollback"] == "successful" else row["status"] for row in rows
        )
        counts = ", ".join(f"{count} {name}" for name, count in ends.most_common())
        console.result(f"{len(rows)} devices: {counts}")
    if result.interrupted:
        busy = len(rollout.pending(rollout.records, UPDATE))
        console.note(
            f"interrupted: nothing more is sent; devices that update now, and go on: {busy}. "
            "The same command goes on with the rest."
        )
        return 130
    if rollout.stopped:
        back = [row["rollback"] for row in rows if row["rollback"]]
        raise FleetError(
            f"the rollout was stopped; devices rolled back: {back.count('successful')} "
            f"of {len(back)}",
            hint="The same command reads what has changed since; with --again it starts over.",
        )
    return 0
