"""Reports of the process that does a job: messages on a pipe of their own, and an exit status.

Each message is a line of JSON. stdout and stderr are left to the libraries, which print what they
like; together they are the job's log.
"""

import errno

import msgspec

FAILED = 1
OUT_OF_MEMORY = 71
DISK_FULL = 74
"""Exit statuses of a job. The last two are those of sysexits.h for trouble with the system and with
input and output."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Some more of the work is done, in the job's own units."""

    amount: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The job is done; the last message.

    Attributes:
        result: what it returned, as JSON.
        peak_bytes: most resident memory that the process had, mapped files included.
    """

    result: msgspec.Raw
    peak_bytes: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The job cannot be done with what it was given; the last message. See `RefusedError`."""

    message: str
    hint: str


Message = Progress | Done | Refused


def status_of(error: BaseException) -> int:
    """Choose the exit status for an error: the machine lacks memory, or disk space, or neither."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return OUT_OF_MEMORY
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return DISK_FULL
        cause = cause.__cause__ or cause.__context__
    return FAILED
