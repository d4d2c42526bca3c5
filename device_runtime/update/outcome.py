"""The state of the device's latest update, as status, MQTT and the installer report it."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.bundle.release import open_release
from device_runtime.durable import Folder, open_folder
from device_runtime.errors import BundleError
from device_runtime.update.journal import HISTORY, PENDING, read_history, read_pending
from device_runtime.update.links import RELEASES


class UpdateState(msgspec.Struct, frozen=True, kw_only=True):
    """The latest update of the device.

    Attributes:
        state: `on trial` until there is a verdict; `rolled back` to the release before; `failed`
            where there was none, so that the release stays.
        release: digest of the release that was installed; empty without an update.
        version: its version.
        reason: reason why it was rolled back, or failed; else empty.
    """

    state: Literal["none", "on trial", "committed", "rolled back", "failed"]
    release: str = ""
    version: str = ""
    reason: str = ""


def read(state: Folder) -> UpdateState:
    """Read the state of the latest update from the state folder."""
    pending = read_pending(state)
    if pending is not None:
        version = ""
        with suppress(BundleError):
            version = open_release(state.path / RELEASES / pending.release).manifest.version
        return UpdateState(state="on trial", release=pending.release, version=version)
    last = read_history(state).last
    if last is None:
        return UpdateState(state="none")
    return UpdateState(
        state=last.state, release=last.release, version=last.version, reason=last.reason
    )


class LatestUpdate:
    """The latest update, for a service that reports it often: files are read when they change.

    Args:
        release: folder of the release that serves; it need not be an installed one.
    """

    def __init__(self, release: Path) -> None:
        self._folder = release.parent.parent if release.parent.name == RELEASES else None
        self._files: list[tuple[int, int] | None] = []
        self._state = UpdateState(state="none")

    def read(self) -> UpdateState:
        """Return the state; the one before if it cannot be read."""
        if self._folder is None:
            return self._state
        with suppress(OSError), open_folder(self._folder) as state:
            entries = [state.stat(name) for name in (PENDING, HISTORY)]
            files = [(entry.st_ino, entry.st_mtime_ns) if entry else None for entry in entries]
            if files != self._files:
                self._state, self._files = read(state), files
        return self._state
