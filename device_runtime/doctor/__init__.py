"""Checks that this device can run a release, with advice where it cannot.

Each check judges facts about the device; `examine` reads the facts.
"""

import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from device_runtime.bundle import requirements
from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.manifest import Manifest
from device_runtime.bundle.release import Release
from device_runtime.bundle.requirements import Unmet
from device_runtime.config.options import RuntimeConfig
from device_runtime.doctor import gpu
from device_runtime.doctor.check import Check
from device_runtime.errors import BundleError, DeviceError
from device_runtime.memory import limits, parse_meminfo
from device_runtime.mqtt import address, contract, health
from device_runtime.mqtt.connection import Connection, ConnectionLostError, Incoming
from device_runtime.mqtt.session import UNHEARD
from device_runtime.processor import gpu_graphs
from device_runtime.server.listener import bind
from device_runtime.status import board
from device_runtime.status.board import Board
from device_runtime.status.device_id import device_id
from device_runtime.update import units
from device_runtime.update.keyring import Keyring, describe
from device_runtime.update.target import Target
from device_runtime.worker import gpus

EARLIEST_YEAR = 2026
"""This program was not there before."""

BROKER_S = 10.0
"""Timeout of the check of the broker."""

_OWN_KEYS = "Install a bundle that is signed with a key of /etc/edgepack/keys.d."


def examine(release: Release, config: RuntimeConfig) -> list[Check]:
    """Check everything that serving a release needs of this device, its own files first."""
    checks = [files(release), *surroundings(release), port(config.listen)]
    return checks if config.mqtt is None else [*checks, *broker(config)]


def surroundings(release: Release) -> list[Check]:
    """Check everything that a release needs of this device besides its files."""
    manifest = release.manifest
    checks = [
        signature(release, Target(Path("/"))),
        memory(Path("/proc/meminfo").read_text(), manifest.memory_bytes),
        control_groups([limit for limit, _ in limits()], manifest.memory_bytes),
        disk(shutil.disk_usage(release.folder).free, manifest.installed_size),
        *sensors(board.measure(release.folder)),
        clock(datetime.now(UTC)),
    ]
    if manifest.kit is not None:
        checks += [
            machine(os.uname().machine, manifest.kit),
            hardware(Target(Path("/")).board, manifest),
            processor(Target(Path("/")).processor, manifest.kit),
            c_library(os.confstr("CS_GNU_LIBC_VERSION") or "none", manifest.kit),
            unit_files(Target(Path("/"))),
        ]
        if manifest.kit.cuda is not None:
            checks += gpu.cuda(manifest.kit.cuda)
    if gpu_graphs(release.model_folder):
        checks.append(gpu.vulkan(gpus.find()))
    return checks


def files(release: Release) -> Check:
    """Check every byte of the release."""
    try:
        release.verify()
    except BundleError as error:
        return Check(name="release", status="fail", found=str(error), advice=error.hint)
    return Check(name="release", status="ok", found=f"intact ({release.digest[:12]})")


def signature(release: Release, target: Target) -> Check:
    """Check who signed the release; only warn, since the device's rules may allow anybody."""
    try:
        states = Keyring(target).signatures(release)
    except DeviceError as error:
        return Check(name="signature", status="warn", found=str(error), advice=_OWN_KEYS)
    if "trusted" in states.values():
        return Check(name="signature", status="ok", found=describe(states))
    return Check(name="signature", status="warn", found=describe(states), advice=_OWN_KEYS)


def memory(meminfo: str, needed: int) -> Check:
    """Compare the memory of the machine, total and available, with the model's.

    Args:
        meminfo: content of /proc/meminfo (man 5 proc), kB.
        needed: memory of the served model, bytes.
    """
    total, available = parse_meminfo(meminfo)
    state = f"{available >> 20} of {total >> 20} MiB available, the model needs {needed >> 20} MiB"
    if total < needed:
        advice = "Use a smaller model, or a profile with a smaller context_length."
        return Check(name="memory", status="fail", found=state, advice=advice)
    if available < needed:
        advice = "Stop other programs; ignore this if the model is already being served."
        return Check(name="memory", status="warn", found=state, advice=advice)
    return Check(name="memory", status="ok", found=state)


def control_groups(allowed: Sequence[int], needed: int) -> Check:
    """Compare the limits of the control groups with the memory of the served model, bytes."""
    if not allowed:
        return Check(name="memory limit", status="ok", found="none")
    state = f"{min(allowed) >> 20} MiB, the model needs {needed >> 20} MiB"
    if min(allowed) < needed:
        advice = "Raise MemoryMax= of the service, or the limit of the container."
        return Check(name="memory limit", status="fail", found=state, advice=advice)
    return Check(name="memory limit", status="ok", found=state)


def sensors(measured: Board) -> list[Check]:
    """Check what the board says of its power and its heat; nothing where it has no sensors."""
    checks = []
    for name, bad, problem, advice in (
        ("power", measured.under_voltage, "the supply is too weak", "Use a stronger supply."),
        ("heat", measured.throttled, "the processor is slowed down", "Cool the processor."),
    ):
        if bad is not None:
            at = "" if measured.temperature_c is None else f" at {measured.temperature_c:.0f} °C"
            state = f"{problem}{at}" if bad else f"well{at}"
            status: Literal["ok", "warn"] = "warn" if bad else "ok"
            checks.append(
                Check(name=name, status=status, found=state, advice=advice if bad else "")
            )
    return checks


def clock(now: datetime) -> Check:
    """Check the clock: boards without a battery begin at 1970, where no certificate is valid."""
    state = f"{now:%Y-%m-%d %H:%M} UTC"
    if now.year < EARLIEST_YEAR:
        advice = "Let it find the time (NTP): TLS connections fail until then."
        return Check(name="clock", status="warn", found=state, advice=advice)
    return Check(name="clock", status="ok", found=state)


def port(listen: str) -> Check:
    """Check that the service can listen at its address, `HOST:PORT`; it may be doing so."""
    try:
        bind(listen).close()
    except DeviceError as error:
        advice = f"Nothing if `edgepack-runtime status` answers; otherwise: {error.hint}"
        return Check(name="address", status="warn", found=str(error), advice=advice)
    return Check(name="address", status="ok", found=f"{listen} is free")


def broker(config: RuntimeConfig) -> list[Check]:
    """Check that the broker can be reached, takes this device's messages, and stays trusted."""
    root = contract.root(device_id(config.device_id))
    deadline = time.monotonic() + BROKER_S

    echoes: list[Incoming] = []

    def receive(message: Incoming) -> None:
        if message.topic == f"{root}doctor":
            echoes.append(message)

    def wanted() -> bool:
        return time.monotonic() < deadline

    try:
        at = address.of(config)
        assert at is not None
        # A client of its own: with the service's id, it would end the service's connection.
        connection = Connection(
            at,
            client_id=f"edgepack-doctor-{os.getpid()}",
            will=(f"{root}doctor", b""),
            on_message=receive,
        )
        connection.open(wanted)
        connection.subscribe(f"{root}doctor")
        connection.publish(f"{root}doctor", b"")
        connection.subscribe(f"{root}status")
        connection.subscribe(f"{root}cmd/+/+")
        while wanted() and (connection.unacknowledged() or not (echoes or connection.refused)):
            connection.step()
        connection.close()
    except (DeviceError, ConnectionLostError) as error:
        advice = "Check `mqtt` and the files that belong to it, and the broker's log."
        return [Check(name="broker", status="warn", found=str(error), advice=advice)]
    refused = connection.refused
    if not echoes:
        # Brokers with MQTT 3.1.1 drop what they refuse without a word.
        refused = {f"{root}doctor": UNHEARD} | refused
    judged = health.link(conflict=False, refused=refused, expires=connection.expires, spool="")
    checks = []
    for name, state, advice in (
        ("broker", f"{at.url}, MQTT {connection.version}", f"Allow this device all of {root}#."),
        ("certificates", "valid", "Renew it."),
    ):
        finding = judged.get(name)
        if finding is not None:
            good = finding.status == "ok"
            checks.append(
                Check(
                    name=name,
                    status="ok" if good else "warn",
                    found=finding.detail or state,
                    advice="" if good else advice,
                )
            )
    return checks


def disk(free: int, needed: int) -> Check:
    """Compare the free disk space with that of a second release beside this one, bytes."""
    state = f"{free >> 20} MiB free, a release needs {needed >> 20} MiB"
    if free < needed:
        advice = "Free disk space before the next update: it is installed beside this release."
        return Check(name="disk", status="warn", found=state, advice=advice)
    return Check(name="disk", status="ok", found=state)


def machine(name: str, kit: KitFacts) -> Check:
    """Check the architecture, as `uname -m` names it."""
    return _check("architecture", name, requirements.architecture(name, kit))


def hardware(board: Sequence[str] | None, manifest: Manifest) -> Check:
    """Check the board's names in the device tree; only warn, since a forced release may run."""
    unmet = requirements.hardware(board, os.uname().machine, manifest)
    return _check("hardware", ", ".join(board or ()) or "no device tree", unmet, "warn")


def processor(features: Collection[str] | None, kit: KitFacts) -> Check:
    """Check the features of the processor, as /proc/cpuinfo names them; None if not known."""
    state = ", ".join(kit.cpu) or "any of its architecture"
    if kit.cpu and features is None:
        advice = f"Check that it has {state}: /proc/cpuinfo does not tell."
        return Check(name="processor", status="warn", found="unknown", advice=advice)
    return _check("processor", state, requirements.processor(features, kit))


def unit_files(target: Target) -> Check:
    """Check whether systemd has the units of this version, enabled."""
    if units.state(target, units.SERVICE) == "missing":
        advice = "Install the bundle to have it served when the device starts."
        return Check(name="units", status="warn", found="not installed", advice=advice)
    notes = units.notes(target)
    if notes:
        advice = "Nothing, if that is meant to be so."
        return Check(name="units", status="warn", found="; ".join(notes), advice=advice)
    return Check(name="units", status="ok", found="unedited and enabled")


def c_library(name: str, kit: KitFacts) -> Check:
    """Check the C library, as confstr(3) names it: `glibc 2.36`."""
    version = re.fullmatch(r"glibc (\d+\.\d+)", name)
    return _check("C library", name, requirements.c_library(version[1] if version else None, kit))


def _check(
    name: str, state: str, unmet: Unmet | None, status: Literal["warn", "fail"] = "fail"
) -> Check:
    if unmet is not None:
        return Check(name=name, status=status, found=unmet.problem, advice=unmet.hint)
    return Check(name=name, status="ok", found=state)
