"""Jobs: heavy work as data, with the code that runs it.

The result of a job depends on nothing but its fields, which name files by path; so a job is sent as
JSON to the process that runs it, and `keys` derives the cache key of its result. The output of a
job is the return value of its `run` and the files that it writes to a folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

Result = TypeVar("Result")


class JobRefusedError(Exception):
    """The job cannot run with its inputs; the message is for the user.

    Attributes:
        hint: what to do next, one sentence; empty for the hint passed to `run_job`.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def ignore_progress(_amount: int) -> None:
    """Discard progress reports."""


class Work:
    """Context of a running job.

    Attributes:
        advance: function that reports progress, in the job's own units.
    """

    def __init__(
        self, target: Path | None = None, advance: Callable[[int], None] = ignore_progress
    ) -> None:
        self._target = target
        self.advance = advance

    @property
    def target(self) -> Path:
        """The folder for the job's files, or the folder that the job inspects."""
        assert self._target is not None, "this job needs a folder"
        return self._target


class Job(msgspec.Struct, Generic[Result], frozen=True, kw_only=True):
    """A unit of work; `harness.run_job` runs it in a child process.

    Paths among the fields are absolute.
    """

    def run(self, work: Work) -> Result:
        """Run the job in this process.

        Raises:
            JobRefusedError: the job cannot run with its inputs.
        """
        raise NotImplementedError


def encode(job: Job[Any]) -> bytes:
    """Encode a job as JSON."""
    return msgspec.json.encode(job, enc_hook=str)


def decode(data: bytes, job_type: type[Job[Any]]) -> Job[Any]:
    """Decode a job from JSON."""
    job: Job[Any] = msgspec.json.decode(
        data, type=job_type, dec_hook=lambda field_type, value: field_type(value)
    )
    return job
