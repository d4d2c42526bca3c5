"""Reports of the process that runs a job: messages on a dedicated pipe, and an exit status.

Each message is a line of JSON. The pipe is the process's stdout until it starts to work; from then
on stdout and stderr belong to the libraries, which print freely: together they are the job's log.
"""

import errno

import msgspec

_EDQUOT = getattr(errno, "EDQUOT", errno.ENOSPC)  # Windows has no such error

FAILED = 1
OUT_OF_MEMORY = 71
DISK_FULL = 74
"""Exit statuses of a job. The last two are EX_OSERR and EX_IOERR of sysexits.h."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Work done since the last message, in the job's own units."""

    amount: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The job succeeded; the last message.

    Attributes:
        result: return value of the job, as JSON.
        peak_bytes: peak resident memory of the process, mapped files included; 0 if not known.
    """

    result: msgspec.Raw
    peak_bytes: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The job cannot run with its inputs; the last message. See `job.JobRefusedError`."""

    message: str
    hint: str


Message = Progress | Done | Refused


def status_of(error: BaseException) -> int:
    """Choose the exit status for an error: out of memory, disk full, or failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return OUT_OF_MEMORY
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, _EDQUOT):
            return DISK_FULL
        cause = cause.__cause__ or cause.__context__
    return FAILED
