"""Requests of the service for changes that only root may make: an update, or a rollback.

The service writes `request.json` into its runtime folder. systemd sees it
(`edgepack-updater.path`) and starts the updater as root, which takes the request and writes its
outcome into the state folder.
Whoever takes the service over can ask for no more than that: a signed bundle, the release before.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from device_runtime.bundle.release import Release
from device_runtime.durable import aside_name, open_folder
from device_runtime.errors import DeviceError
from device_runtime.update import links
from device_runtime.update.journal import (
    RequestState,
    read_request_state,
    write_request_state,
)
from device_runtime.update.links import STATE
from device_runtime.update.target import Target
from device_runtime.update.units import UPDATER

log = logging.getLogger(__name__)

RUNTIME = "run/edgepack"
"""Runtime folder of the service."""
REQUEST = "request.json"
_MAX_BYTES = 16 << 10

Verb = Literal["update", "rollback"]
_Text = Annotated[str, msgspec.Meta(max_length=1024)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request.

    Attributes:
        id: tells it apart from all others.
        verb: what to do.
        reference: bundle to install, `oci://...@sha256:...`; empty for a rollback.
    """

    id: _Text
    verb: Verb
    reference: _Text = ""


class Updater:
    """The updater, as the service sees it.

    Args:
        runtime: runtime folder of the service.
        state: folder with the releases.
    """

    def __init__(self, runtime: Path, state: Path) -> None:
        self._request = runtime / REQUEST
        self._working = runtime.with_name(UPDATER.removesuffix(".service"))
        self._state = state

    def ask(self, request: Request) -> None:
        """Leave a request; replaces one that has not been taken.

        Raises:
            OSError: the folder cannot be written to.
        """
        aside = self._request.with_name(aside_name(REQUEST))
        try:
            aside.write_bytes(msgspec.json.encode(request))
            aside.rename(self._request)
        finally:
            aside.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Take back a request that has not been taken."""
        self._request.unlink(missing_ok=True)

    @property
    def asked(self) -> bool:
        """True while a request has not been taken."""
        return self._request.exists()

    @property
    def working(self) -> bool:
        """True while the updater runs: systemd makes a folder for it."""
        return self._working.exists()

    def outcome(self, request: str) -> RequestState | None:
        """Return how a request ended by its id; None if it has not, or is not the latest."""
        latest = None
        with suppress(OSError), open_folder(self._state) as state:
            latest = read_request_state(state)
        if latest is None or latest.id != request or latest.status == "begun":
            return None
        return latest


def carry_out(target: Target, actions: Mapping[str, Callable[[Request], Release]]) -> None:
    """Take the request that waits, if there is one, carry it out, and note its outcome.

    One that comes again after a power cut is completed: an update begins again, a rollback that
    was done is not done twice.

    Args:
        target: the root file system of this device.
        actions: functions that carry out a verb, and return the release that is current then.

    Raises:
        OSError: the state folder cannot be read or written.
    """
    request = _take(target)
    if request is None:
        return
    with target.folder(STATE) as state:
        current = links.read(state, "current") or ""
        latest = read_request_state(state)
        if latest is not None and latest.id == request.id and latest.status != "begun":
            return
        if latest is None or latest.id != request.id:
            latest = RequestState(id=request.id, status="begun", release=current)
            write_request_state(state, latest)
        ended = msgspec.structs.replace(latest, status="failed", reason="a defect; see the log")
        try:
            if request.verb == "rollback" and latest.release != current:
                ended = RequestState(id=request.id, status="successful", release=current)
            else:
                release = actions[request.verb](request)
                ended = RequestState(
                    id=request.id,
                    status="successful",
                    release=release.digest,
                    version=release.manifest.version,
                )
        except DeviceError as error:
            ended = msgspec.structs.replace(latest, status="failed", reason=str(error))
        finally:
            write_request_state(state, ended)


def _take(target: Target) -> Request | None:
    """Return the request, and remove it; None if there is none, or if it is not valid."""
    try:
        with target.folder(RUNTIME) as runtime:
            try:
                with runtime.file(REQUEST) as file:
                    content = file.read(_MAX_BYTES)
            finally:
                with suppress(FileNotFoundError):
                    runtime.remove(REQUEST)
        return msgspec.json.decode(content, type=Request)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("a request cannot be read: %s", error)
        return None
