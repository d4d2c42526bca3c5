"""The guard of a release on trial: watches its service, then commits to it or goes back.

It is the program of the release before, and runs from the installation to the verdict; after a
power cut it begins again at boot. A device that never gets to a verdict goes back, too.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict

import msgspec

from device_runtime import heartbeat
from device_runtime.bundle.manifest import Trust
from device_runtime.bundle.release import Release
from device_runtime.durable import Folder
from device_runtime.errors import BundleError, InstallError, ServiceError
from device_runtime.heartbeat import Heartbeat
from device_runtime.logs import event
from device_runtime.update import config, links, switch
from device_runtime.update.config import UpdateConfig
from device_runtime.update.journal import Pending, read_history, read_pending, write_pending
from device_runtime.update.judgement import Bounds, Observation, Trial, Verdict
from device_runtime.update.keyring import Keyring
from device_runtime.update.links import STATE
from device_runtime.update.releases import Releases
from device_runtime.update.services import Services
from device_runtime.update.target import Target
from device_runtime.update.units import SERVICE

log = logging.getLogger(__name__)

HEALTH = f"run/edgepack/{heartbeat.FILE_NAME}"
INTERVAL_S = 0.5
MAX_STARTS = 3
"""Starts of the guard for one trial; each further one, usually after a power cut, goes back."""


def run(
    target: Target,
    services: Services,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict | None:
    """Watch the release on trial until there is a verdict, and act on it.

    Args:
        target: the root file system of this device.
        services: its services.
        clock: clock that never jumps, seconds: that of the wall may start at 1970.
        sleep: waits for a number of seconds.

    Returns:
        The verdict; None without a trial, or if another command ended it: a rollback by hand, or
        an installation, whose release gets a guard of its own.

    Raises:
        OSError: the state folder cannot be read or written.
        ServiceError: the service manager does not respond.
    """
    rules = _rules(target)
    with target.folder(STATE) as state:
        pending = _count_start(target, state)
        if pending is None:
            return None
        release = Releases(target, state).open(pending.release)
        if release is None:
            verdict = Verdict(good=False, reason="its manifest is damaged")
        elif pending.boots > MAX_STARTS:
            verdict = Verdict(good=False, reason=f"no verdict after {MAX_STARTS} starts")
        else:
            bounds = Bounds.of(
                pending.release,
                release.manifest,
                start_s=rules.start_timeout_s,
                probation_s=rules.probation_s,
                previous_tokens_per_s=_speed(state, pending.previous),
            )
            verdict = _watch(target, services, Trial(bounds, clock()), clock, sleep)
        with switch.alone(state, wait=True):
            now = read_pending(state)
            if now is None or now.release != pending.release:
                return None
            if verdict.good and release is not None:
                verdict = _with_keys(target, release, rules, verdict)
            serving = _end(target, state, pending, verdict, rules.keep_releases)
    event(log, logging.INFO, "verdict", release=pending.release, **asdict(verdict))
    if serving != pending.release:
        services.restart(SERVICE)
    return verdict


def _end(target: Target, state: Folder, pending: Pending, verdict: Verdict, keep: int) -> str:
    """Commit or roll back; return the digest of the release that is current now."""
    if not verdict.good:
        try:
            return switch.roll_back(target, state, verdict.reason)
        except OSError as error:  # on a full disk, the way back matters more than the record
            event(log, logging.ERROR, "failure_not_recorded", reason=error)
            switch.abandon(target, state)
            return links.read(state, "current") or pending.release
    switch.commit(target, state, tokens_per_s=verdict.tokens_per_s, keep=keep)
    return pending.release


def _rules(target: Target) -> UpdateConfig:
    """Read the device's rules; the defaults if they are invalid, since a trial must end."""
    try:
        return config.read(target)
    except InstallError as error:
        event(log, logging.ERROR, "invalid_rules", reason=error)
        return UpdateConfig()


def _count_start(target: Target, state: Folder) -> Pending | None:
    """Complete what a power cut interrupted, and count this start if there is a trial."""
    with switch.alone(state, wait=True):
        switch.recover(target, state)
        pending = read_pending(state)
        if pending is not None:
            pending = msgspec.structs.replace(pending, boots=pending.boots + 1)
            try:
                write_pending(state, pending)
            except OSError as error:  # a full disk must not keep the trial from its end
                event(log, logging.ERROR, "start_not_counted", reason=error)
        return pending


def _with_keys(target: Target, release: Release, rules: UpdateConfig, verdict: Verdict) -> Verdict:
    """Make the changes to the keyring that come with a good release; without them it fails."""
    trust = release.manifest.trust
    if trust != Trust():
        try:
            keyring = Keyring(target)
            if not keyring.has(trust):  # after a power cut; it may have revoked its own key
                keyring.check(release, rules)  # again: a key may have been revoked since
                keyring.apply(trust)
        except (BundleError, InstallError, OSError) as error:
            return Verdict(good=False, reason=f"its keys cannot be stored: {error}")
    return verdict


def _speed(state: Folder, release: str | None) -> float | None:
    return read_history(state).speeds.get(release) if release is not None else None


def _watch(
    target: Target,
    services: Services,
    trial: Trial,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Verdict:
    restarts = 0
    while True:
        try:
            restarts = services.restarts(SERVICE)
        except ServiceError as error:  # on a busy system; the heartbeat tells enough
            event(log, logging.WARNING, "restarts_unknown", reason=error)
        seen = Observation(at=clock(), beat=latest_heartbeat(target), restarts=restarts)
        verdict = trial.observe(seen)
        if verdict is not None:
            return verdict
        sleep(INTERVAL_S)


def latest_heartbeat(target: Target) -> Heartbeat | None:
    """Read the latest heartbeat of the service; None without one."""
    data = target.read(HEALTH, heartbeat.MAX_BYTES)
    return heartbeat.read(data) if data is not None else None
