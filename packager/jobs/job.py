"""Jobs: heavy work as data, with the code that does it.

The fields of a job are all that its result depends on, files by their paths; so a job travels to
the process that does it as JSON, and `keys` makes the key of a cached result of it. What a job
leaves is what its `run` returns, and the files that it writes to a folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

Result = TypeVar("Result")


class RefusedError(Exception):
    """The job cannot be done with what it was given; the message is for the user.

    Attributes:
        hint: what to do next, one sentence; empty for what the one who runs the job suggests.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def unheard(_amount: int) -> None:
    """Report progress to nobody."""


class Work:
    """Surroundings of a job that is being done.

    Attributes:
        advance: reports progress, in the job's own units.
    """

    def __init__(
        self, target: Path | None = None, advance: Callable[[int], None] = unheard
    ) -> None:
        self._target = target
        self.advance = advance

    @property
    def target(self) -> Path:
        """The folder that gets the job's files, or that a job looks at to judge what is there."""
        assert self._target is not None, "this job writes files, and was given no folder"
        return self._target


class Job(msgspec.Struct, Generic[Result], frozen=True, kw_only=True):
    """A piece of work; `harness.run_job` does it in a process of its own.

    Paths among the fields are absolute.
    """

    def run(self, work: Work) -> Result:
        """Do it, in this process.

        Raises:
            RefusedError: it cannot be done with what it was given.
        """
        raise NotImplementedError


def encode(job: Job[Any]) -> bytes:
    """Encode a job as JSON."""
    return msgspec.json.encode(job, enc_hook=str)


def decode(data: bytes, kind: type[Job[Any]]) -> Job[Any]:
    """Decode a job from JSON."""
    job: Job[Any] = msgspec.json.decode(
        data, type=kind, dec_hook=lambda wanted, value: wanted(value)
    )
    return job
