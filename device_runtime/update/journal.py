"""The journal of updates in the state folder: the release on trial, and how earlier ones did.

`pending.json` exists only while a release is on trial. `history.json` has failures and speeds,
`requested.json` how the latest request of the service did (`requests.py`). None decides which
release serves (the links do), so a damaged file is set aside and read as absent. Nothing in them is
a time: the clock of a device without a battery starts at 1970.
"""

import logging
import stat
from contextlib import suppress
from typing import Annotated, Literal, TypeVar

import msgspec

from device_runtime.bundle.fields import Sha256
from device_runtime.durable import Folder

log = logging.getLogger(__name__)

PENDING = "pending.json"
HISTORY = "history.json"
REQUESTED = "requested.json"

MAX_BYTES = 64 << 10
MAX_ENTRIES = 32
"""Failures and speeds that the history keeps, the latest ones."""
MAX_REASON = 500
"""Characters of a reason that are kept."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class Pending(msgspec.Struct, frozen=True):
    """A release on trial.

    Attributes:
        release: digest of the release.
        previous: release to return to if it fails; None if there is none.
        boots: starts of the device since the trial began.
        older: release that had the role `previous` before the trial.
    """

    release: Sha256
    previous: Sha256 | None
    boots: Count = 0
    older: Sha256 | None = None


class Failure(msgspec.Struct, frozen=True):
    """A release that failed its trial.

    Attributes:
        release: digest of the release.
        version: its version.
        reason: reason of the latest failure, one sentence.
        count: number of failed trials.
    """

    release: Sha256
    version: str
    reason: str
    count: Count


class Outcome(msgspec.Struct, frozen=True):
    """The end of a trial.

    Attributes:
        release: digest of the release.
        version: its version.
        state: `failed` if there was no release to go back to.
        reason: reason of a failure, one phrase; else empty.
    """

    release: Sha256
    version: str
    state: Literal["committed", "rolled back", "failed"]
    reason: str = ""


class RequestState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the latest request of the service.

    Attributes:
        id: that of the request.
        status: `begun` until it ends; a power cut may leave it so.
        reason: reason why it failed; else empty.
        release: digest of the current release: of the one before the request until it ends.
        version: its version; empty until it ends.
    """

    id: str
    status: Literal["begun", "successful", "failed"]
    reason: str = ""
    release: str = ""
    version: str = ""


class History(msgspec.Struct, frozen=True):
    """Results of earlier trials.

    Attributes:
        failures: releases that failed, the latest last.
        speeds: decode speeds measured in trials that succeeded, tokens/s by digest, the latest
            last.
        last: the end of the latest trial; None before the first.
    """

    failures: tuple[Failure, ...] = ()
    speeds: dict[Sha256, float] = {}
    last: Outcome | None = None

    def failure(self, release: str) -> Failure | None:
        """Return the failure of a release; None if it has not failed."""
        return next((failure for failure in self.failures if failure.release == release), None)

    def with_failure(self, release: str, version: str, reason: str) -> "History":
        """Return the history after one more failed trial of a release."""
        before = self.failure(release)
        failure = Failure(release, version, reason, before.count + 1 if before else 1)
        return msgspec.structs.replace(
            self, failures=(*(f for f in self.failures if f != before), failure)
        )

    def with_success(self, release: str, tokens_per_s: float | None) -> "History":
        """Return the history after a trial that succeeded: earlier failures are forgiven."""
        speeds = {digest: speed for digest, speed in self.speeds.items() if digest != release}
        if tokens_per_s is not None:
            speeds[release] = tokens_per_s
        return History(tuple(f for f in self.failures if f.release != release), speeds)


def read_pending(state: Folder) -> Pending | None:
    """Return the release on trial; None if there is none."""
    return _read(state, PENDING, Pending)


def write_pending(state: Folder, pending: Pending) -> None:
    """Record the release on trial, durably."""
    _write(state, PENDING, pending)


def clear_pending(state: Folder) -> None:
    """End the trial, durably."""
    if state.stat(PENDING) is not None:
        state.remove(PENDING)


def read_history(state: Folder) -> History:
    """Return the results of earlier trials."""
    return _read(state, HISTORY, History) or History()


def write_history(state: Folder, history: History) -> None:
    """Record the results of trials, durably; the oldest ones are dropped."""
    failures = tuple(_shown(failure) for failure in history.failures[-MAX_ENTRIES:])
    speeds = dict(list(history.speeds.items())[-MAX_ENTRIES:])
    last = _shown(history.last) if history.last is not None else None
    _write(state, HISTORY, History(failures, speeds, last))


def read_request_state(state: Folder) -> RequestState | None:
    """Return the state of the latest request; None if there was none."""
    return _read(state, REQUESTED, RequestState)


def write_request_state(state: Folder, latest: RequestState) -> None:
    """Record the state of a request, durably."""
    _write(state, REQUESTED, _shown(latest))


_Struct = TypeVar("_Struct", Pending, History, RequestState)
_Reasoned = TypeVar("_Reasoned", Failure, Outcome, RequestState)


def _shown(entry: _Reasoned) -> _Reasoned:
    # It may be the service's own words.
    text = "".join(c if c.isprintable() else " " for c in entry.reason[:MAX_REASON])
    return msgspec.structs.replace(entry, reason=text)


def _read(state: Folder, name: str, kind: type[_Struct]) -> _Struct | None:
    entry = state.stat(name)
    if entry is None:
        return None
    try:
        if not stat.S_ISREG(entry.st_mode) or entry.st_size > MAX_BYTES:
            raise msgspec.DecodeError(f"not a plain file of at most {MAX_BYTES} bytes")
        with state.file(name) as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=kind)
    except FileNotFoundError:  # since it was looked at
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("%s is damaged and was set aside: %s", state.path / name, error)
        # A reader without the permission to write, such as the service, reads past it.
        with suppress(OSError):
            state.rename(name, f"{name}.corrupt")
        return None


def _write(state: Folder, name: str, value: Pending | History | RequestState) -> None:
    state.write(name, msgspec.json.encode(value))
