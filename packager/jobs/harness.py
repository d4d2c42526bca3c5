"""Jobs in processes of their own: `run_job` does one, and reports how it ended.

The model builder, transformers and ONNX Runtime print to stdout, keep gigabytes until their process
ends, may crash in native code, and may be killed by the kernel for the memory they take; none of
that should be the packager's fate.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, get_type_hints

import msgspec

from packager import cache, console, machine
from packager.errors import PackagerError, ResourceError
from packager.jobs import job as jobs
from packager.jobs import messages
from packager.jobs.job import Job, unheard
from packager.jobs.messages import Done, Message, Progress, Refused
from packager.run import TAIL_LINES, Program
from packager.units import gigabytes

# Jobs work on local files only, and report to nobody.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
    # Threads that wait in a loop cost little on an idle machine and multiply the time on a busy
    # one: calibrating a layer took 3 s instead of 40 beside other work.
    "OMP_WAIT_POLICY": "PASSIVE",
    # The model builder writes the commit of whatever checkout it is installed below into the
    # graph, as its own; without git it takes the one its package was made from.
    "GIT_DIR": os.devnull,
}

FULL_BYTES = 1 << 20
"""Free space below which a failure is put down to the disk: not every library reports the system's
error number, and a file that is mapped ends the process with a signal."""

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)

Result = TypeVar("Result")


def run_job(
    job: Job[Result],
    target: Path | None = None,
    *,
    what: str,
    error: type[PackagerError],
    hint: str,
    advance: Callable[[int], None] = unheard,
) -> Result:
    """Do a job in a process of its own; its result.

    When this process is interrupted, that one ends too; files that it has finished by then stay.

    Args:
        job: the job.
        target: folder for its files; None for a job that writes none.
        what: what is being done, for messages ("Building the ONNX model").
        error: the kind of error to raise when it fails for a reason of its own.
        hint: what to do then.
        advance: called with the progress, in the job's own units.

    Raises:
        ResourceError: memory or disk space ran out.
        PackagerError: of the given kind. A refusal is the message; for any other failure it has
            the log's last line, and names the file with the lines before.
    """
    kills = machine.oom_kills()
    with _memory_file(jobs.encode(job)) as given, _memory_file(b"") as log:
        status, last = _process(job, target, given, log, what, advance)
        if isinstance(last, Refused):
            raise error(last.message, hint=last.hint or hint)
        if isinstance(last, Done) and status == 0:
            console.note(f"{what}: {gigabytes(last.peak_bytes)} resident at its peak")
            result: Result = msgspec.json.decode(last.result, type=_result_type(job))
            return result
        _check_resources(status, kills, target, what)
        log.seek(0)
        raise _failure(status, log.read().decode(errors="replace"), what, error, hint)


def _process(
    job: Job[Result],
    target: Path | None,
    given: IO[bytes],
    log: IO[bytes],
    what: str,
    advance: Callable[[int], None],
) -> tuple[int, Message | None]:
    """Follow the process from its start to its end: exit status and last message."""
    last: Message | None = None
    kind = type(job)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        argv = [sys.executable, "-m", "packager.jobs", kind.__module__, kind.__name__]
        try:
            process = Program(
                [*argv, str(writing), *([target] if target is not None else [])],
                what=what,
                stdin=given,
                stdout=log,
                stderr=log,
                env={**os.environ, **OFFLINE},
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        with process:
            for line in pipe:
                last = msgspec.json.decode(line, type=Message)
                if isinstance(last, Progress):
                    advance(last.amount)
            return process.wait(), last


def _memory_file(content: bytes) -> IO[bytes]:
    """A file that is on no disk, and so has room when that is full."""
    file = os.fdopen(os.memfd_create("job"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _result_type(job: Job[Result]) -> type[Result]:
    kind: type[Result] = get_type_hints(type(job).run)["return"]
    return kind


def _check_resources(status: int, kills: int | None, target: Path | None, what: str) -> None:
    """Raise an error if memory or disk space ran out.

    Args:
        status: exit status of the process, or minus the signal that ended it.
        kills: what `machine.oom_kills` was before it started.
        target: folder that it wrote to; None for the cache, where its result would go.
        what: what was being done.
    """
    killed = status in _KILLED and (kills is None or machine.oom_kills() != kills)
    if status == messages.OUT_OF_MEMORY or killed:
        raise ResourceError(
            f"{what}: the machine ran out of memory",
            hint="Close other programs, or take a smaller model.",
        )
    full = machine.disk_free(target or cache.root()) < FULL_BYTES
    if status == messages.DISK_FULL or full:
        raise ResourceError(
            f"{what}: the disk is full",
            hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
        )


def _failure(
    status: int, log: str, what: str, error: type[PackagerError], hint: str
) -> PackagerError:
    """The error for a process that failed for a reason of its own; the log goes to a file."""
    lines = [line for line in log.splitlines() if line.strip()]
    if status < 0:
        reason = f"its process was ended by {signal.Signals(-status).name}"
    else:
        reason = lines[-1] if lines else f"its process ended with status {status}"
    path = cache.root() / "last-failure.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines[-TAIL_LINES:]) + "\n")
    return error(f"{what} failed: {reason} (more in {path})", hint=hint)
