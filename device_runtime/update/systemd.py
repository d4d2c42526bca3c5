"""The services of a running systemd, through systemctl(1)."""

import os
import subprocess
from pathlib import Path

from device_runtime.errors import ServiceError
from device_runtime.update.services import Services

RUNNING = Path("/run/systemd/system")
"""Exists where systemd is the init system: sd_booted(3)."""
TIMEOUT_S = 120.0
"""Longest time that a stop takes, with room to spare (TimeoutStopSec of our unit is 30 s)."""


def of_root(root: Path) -> Services | None:
    """Return the services of a root file system; None unless it is that of a running systemd."""
    return Systemd() if root.resolve() == Path("/") and RUNNING.is_dir() else None


class Systemd:
    """Implements `Services`."""

    def reload(self) -> None:
        """See `Services.reload`."""
        self._call("daemon-reload")

    def restart(self, unit: str) -> None:
        """See `Services.restart`."""
        # Units that failed too often are not started before that is forgotten.
        self._call("reset-failed", unit, check=False)
        self._call("restart", "--no-block", unit)

    def stop(self, unit: str) -> None:
        """See `Services.stop`."""
        self._call("stop", unit)

    def is_active(self, unit: str) -> bool:
        """See `Services.is_active`."""
        state = self._property(unit, "ActiveState")
        return state in ("active", "activating", "reloading")

    def restarts(self, unit: str) -> int:
        """See `Services.restarts`."""
        count = self._property(unit, "NRestarts")
        return int(count) if count.isdecimal() else 0

    def _property(self, unit: str, name: str) -> str:
        return self._call("show", f"--property={name}", "--value", unit).strip()

    def _call(self, *arguments: str, check: bool = True) -> str:
        # A frozen program has its own libraries in the path; systemctl must have the system's.
        environment = {**os.environ, "LC_ALL": "C"}
        environment.pop("LD_LIBRARY_PATH", None)
        if original := environment.pop("LD_LIBRARY_PATH_ORIG", ""):
            environment["LD_LIBRARY_PATH"] = original
        try:
            done = subprocess.run(
                ["systemctl", "--no-pager", "--no-ask-password", *arguments],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(arguments, str(error)) from None
        if check and done.returncode != 0:
            raise _failed(arguments, done.stderr.strip())
        return done.stdout


def _failed(arguments: tuple[str, ...], reason: str) -> ServiceError:
    return ServiceError(
        f"systemctl {' '.join(arguments)} failed: {reason}",
        hint="Run it by hand to see why; the release itself is in place.",
    )
