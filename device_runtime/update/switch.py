"""The transaction that makes a release the current one, and the way back.

`begin` puts a release on trial: it sets the link `guard`, `pending.json`, then the links `previous`
and `current`. The trial ends with `commit`, or with `roll_back` and the reason. Each step is
durable before the next, `current` always leads to a whole release, and `recover` completes what a
power cut left. Callers hold the lock (`alone`); the guard reads `pending.json` again under it,
since another release may be on trial by then.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from device_runtime.durable import Folder
from device_runtime.errors import InstallError
from device_runtime.update import links
from device_runtime.update.journal import (
    Outcome,
    Pending,
    clear_pending,
    read_history,
    read_pending,
    write_history,
    write_pending,
)
from device_runtime.update.releases import Releases
from device_runtime.update.target import Target

LOCK = ".lock"


@contextmanager
def alone(state: Folder, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock that allows one change at a time.

    Args:
        state: the state folder.
        wait: wait while another process holds it, instead of raising.

    Raises:
        InstallError: another process holds it, or its file is not a plain file.
    """
    import fcntl  # Windows lacks it, where the host imports this module

    entry = state.stat(LOCK)
    if entry is not None and not stat.S_ISREG(entry.st_mode):
        raise InstallError(
            f"{state.path / LOCK} is not a plain file",
            hint="Remove it: installations use a file of that name as their lock.",
        )
    with state.file(LOCK, make=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InstallError(
                "another installation is running on this target", hint="Wait for it to end."
            ) from None
        yield


def begin(target: Target, state: Folder, new_digest: str) -> None:
    """Make a whole release in the folder of releases the current one, on trial.

    The release from before a trial has no trial of its own: it ends the one that is on.
    """
    recover(target, state)
    current, older = links.read(state, "current"), links.read(state, "previous")
    trial = read_pending(state)
    ways_back = (current, older)
    if trial is not None:
        if trial.previous == new_digest:
            _undo(target, state, trial)
            return
        # The release on trial was never found good: the one before it stays the way back.
        ways_back, older = (trial.previous, current), trial.older
    releases = Releases(target, state)
    usable = (digest for digest in ways_back if digest and releases.open(digest))
    previous = next((digest for digest in usable if digest != new_digest), None)
    pending = Pending(new_digest, previous, older=older)
    # Before the trial is recorded: from then on, the guard's unit starts that program.
    links.point(state, "guard", pending.previous or new_digest)
    write_pending(state, pending)
    links.point(state, "previous", pending.previous)
    links.point(state, "current", new_digest)


def commit(target: Target, state: Folder, *, keep: int, tokens_per_s: float | None = None) -> None:
    """End the trial: the release is good. Releases beyond `keep` are removed.

    Args:
        target: the root file system.
        state: its state folder.
        keep: number of releases to keep.
        tokens_per_s: decode speed of the release; None if it was not measured.
    """
    pending = read_pending(state)
    if pending is None:
        return
    history = read_history(state).with_success(pending.release, tokens_per_s)
    last = Outcome(pending.release, _version(target, state, pending), "committed")
    write_history(state, msgspec.structs.replace(history, last=last))
    clear_pending(state)
    Releases(target, state).prune(keep)


def roll_back(target: Target, state: Folder, reason: str) -> str:
    """End the trial: the release failed. The one before it is current again, if there is one.

    Args:
        target: the root file system.
        state: its state folder.
        reason: reason of the failure, one sentence.

    Returns:
        The digest of the release that is current now.

    Raises:
        InstallError: no release is on trial.
    """
    pending = read_pending(state)
    if pending is None:
        raise InstallError("no release is on trial", hint="Nothing has to be rolled back.")
    version = _version(target, state, pending)
    history = read_history(state).with_failure(pending.release, version, reason)
    stays = pending.previous is None or Releases(target, state).open(pending.previous) is None
    last = Outcome(pending.release, version, "failed" if stays else "rolled back", reason)
    write_history(state, msgspec.structs.replace(history, last=last))
    return _undo(target, state, pending)


def abandon(target: Target, state: Folder) -> None:
    """End the trial as `roll_back` does, if there is one, without a record of the failure."""
    pending = read_pending(state)
    if pending is not None:
        _undo(target, state, pending)


def back(target: Target, state: Folder) -> str:
    """Exchange the current and the previous release; ends a trial without a failure.

    Returns:
        The digest of the release that is current now.

    Raises:
        InstallError: there is no previous release.
        BundleError: it is damaged.
    """
    recover(target, state)
    previous = links.read(state, "previous")
    release = Releases(target, state).open(previous) if previous else None
    if previous is None or release is None or previous == links.read(state, "current"):
        raise InstallError(
            "there is no previous release to go back to", hint="Install another bundle instead."
        )
    release.verify()
    pending = read_pending(state)
    if pending is not None:
        return _undo(target, state, pending)
    state.exchange("previous", "current")
    return previous


def recover(target: Target, state: Folder) -> bool:
    """Complete what a power cut interrupted: the links are those before or after a transaction.

    Returns:
        Whether anything had to be done.
    """
    pending = read_pending(state)
    if pending is None or pending.release == links.read(state, "current"):
        return False
    _undo(target, state, pending)
    return True


def _version(target: Target, state: Folder, pending: Pending) -> str:
    release = Releases(target, state).open(pending.release)
    return release.manifest.version if release else ""


def _undo(target: Target, state: Folder, pending: Pending) -> str:
    """Set the links back to what they were before the trial, and end it."""
    current = pending.release
    if pending.previous is not None and Releases(target, state).open(pending.previous):
        current = pending.previous
        links.point(state, "current", current)
        links.point(state, "previous", pending.older)
    clear_pending(state)
    return current
