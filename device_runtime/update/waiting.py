"""The end of an installation on a running system: the verdict of the guard, waited for."""

import time
from collections.abc import Callable

from device_runtime.errors import ServiceError
from device_runtime.update import outcome, switch
from device_runtime.update.guard import latest_heartbeat
from device_runtime.update.links import STATE
from device_runtime.update.outcome import UpdateState
from device_runtime.update.services import Services
from device_runtime.update.target import Target
from device_runtime.update.units import GUARD

INTERVAL_S = 0.5
ABSENT_S = 30.0
"""Time that the guard may be absent: its unit starts it again after a failure."""


def wait(
    target: Target,
    services: Services,
    release: str,
    report: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> UpdateState:
    """Wait until the trial of a release ends, and the guard's work with it.

    Args:
        target: the root file system of this device.
        services: its services.
        release: digest of the release.
        report: called with the service's state whenever that changes.
        clock: clock that never jumps, seconds.
        sleep: waits for a number of seconds.

    Returns:
        The state after the trial.

    Raises:
        ServiceError: the guard does not run, so there will be no verdict before the next boot.
    """
    seen_at, reported = clock(), ""
    with target.folder(STATE) as state:
        while True:
            now = outcome.read(state)
            if (now.state, now.release) != ("on trial", release):
                # The guard removes old releases after its verdict; the next installation of a
                # script would be refused until then.
                with switch.alone(state, wait=True):
                    return now
            if services.is_active(GUARD):
                seen_at = clock()
            elif clock() - seen_at > ABSENT_S:
                raise ServiceError(
                    f"{GUARD} does not run: nobody judges the new release",
                    hint=f"See: journalctl -u {GUARD}. edgepack-runtime rollback goes back.",
                )
            beat = latest_heartbeat(target)
            health = beat.health if beat is not None and beat.release == release else "starting"
            if health != reported:
                report(health)
                reported = health
            sleep(INTERVAL_S)
