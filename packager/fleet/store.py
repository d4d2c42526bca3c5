"""The files of rollouts: a command that is repeated goes on where it was.

Their folder is `~/.local/state/edgepack/rollouts` (XDG). A rollout's file is named by what was
asked for: reference, broker, selection.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from packager.aside import written_aside
from packager.cache import key
from packager.errors import FleetError, ResourceError
from packager.fleet.rollout import Rollout

_HINT = "Set XDG_STATE_HOME to a folder that can be written to."


def folder() -> Path:
    """Return the folder of the rollouts, which need not exist yet."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state).absolute() / "edgepack/rollouts"


class Store:
    """The file of a rollout.

    Args:
        rollout: a new rollout, for what was asked for.
    """

    def __init__(self, rollout: Rollout) -> None:
        asked = {
            "reference": rollout.reference,
            "broker": rollout.broker,
            "select": rollout.select,
        }
        self.path = folder() / f"{key(asked)[:16]}.json"

    def load(self) -> Rollout | None:
        """Read the rollout; None if there is none yet.

        Raises:
            FleetError: the file is damaged.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Rollout)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FleetError(
                f"cannot read {self.path}: {error}",
                hint="Without this file, the rollout starts over.",
            ) from None

    def save(self, rollout: Rollout) -> None:
        """Write the rollout, so that it survives a power cut.

        Raises:
            ResourceError: it cannot be written.
        """
        with written_aside(self.path, _HINT) as file:
            file.write(msgspec.json.format(msgspec.json.encode(rollout)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from going on with the same rollout.

        Raises:
            FleetError: one does.
            ResourceError: the folder cannot be written to.
        """
        path = self.path.with_suffix(".lock")
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise FleetError(
                "another edgepack is at work on this rollout",
                hint="Wait for its end, or end it with Ctrl-C: this command then goes on.",
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"cannot write {path}: {reason}", hint=_HINT) from None
        try:
            yield
        finally:
            lock.release()
