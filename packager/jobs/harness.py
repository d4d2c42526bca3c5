"""Child processes for jobs: `run_job` runs a job in one and returns the result.

The model builder, transformers and ONNX Runtime print to stdout, keep gigabytes until their process
ends, can crash in native code, and can be killed by the kernel when memory runs out; the packager
must survive all of that.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, get_type_hints

import msgspec

from packager import cache, console, machine
from packager.errors import PackagerError, ResourceError
from packager.jobs import job as jobs
from packager.jobs import messages
from packager.jobs.job import Job, ignore_progress
from packager.jobs.messages import Done, Message, Progress, Refused
from packager.run import TAIL_LINES, Program
from packager.units import gigabytes

# Jobs work on local files only, and send no telemetry.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
    # Busy-waiting threads cost little on an idle machine but multiply the time on a busy one:
    # beside other work, calibrating a layer took 40 s with them and 3 s without.
    "OMP_WAIT_POLICY": "PASSIVE",
    # The model builder writes the commit of whatever checkout it is installed in into the graph, as
    # its own; without git it uses the commit that its package was built from.
    "GIT_DIR": os.devnull,
    # Libraries leave out the encoding of files, which is another one on Windows.
    "PYTHONUTF8": "1",
}

FULL_BYTES = 1 << 20
"""Free space below which a failure is attributed to a full disk: not every library reports the
system's error number, and writing to a mapped file ends the process with a signal."""

_KILLED = (-9, 128 + 9)  # by SIGKILL, for which Windows has no name

Result = TypeVar("Result")


def run_job(
    job: Job[Result],
    target: Path | None = None,
    *,
    what: str,
    error: type[PackagerError],
    hint: str,
    advance: Callable[[int], None] = ignore_progress,
) -> Result:
    """Run a job in a child process and return its result.

    If this process is interrupted, the child ends too; files that it has completed remain.

    Args:
        job: the job to run.
        target: folder for the job's files; None for a job that writes no files.
        what: name of the activity for messages ("Building the ONNX model").
        error: class of the error to raise if the job itself fails.
        hint: advice to show with that error.
        advance: called with the progress, in the job's own units.

    Raises:
        ResourceError: memory or disk space ran out.
        PackagerError: the job was refused or failed; an instance of `error`. Its message is that of
            the refusal; for other failures it has the log's last line and the path of the log.
    """
    kills = machine.oom_kills()
    with _memory_file(jobs.encode(job)) as fields, _memory_file(b"") as log:
        status, last = _process(job, target, fields, log, what, advance)
        if isinstance(last, Refused):
            raise error(last.message, hint=last.hint or hint)
        if isinstance(last, Done) and status == 0:
            if last.peak_bytes:
                console.note(f"{what}: peak resident memory {gigabytes(last.peak_bytes)}")
            result: Result = msgspec.json.decode(last.result, type=_result_type(job))
            return result
        _check_resources(status, kills, target, what)
        log.seek(0)
        raise _failure(status, log.read().decode(errors="replace"), what, error, hint)


def _process(
    job: Job[Result],
    target: Path | None,
    fields: IO[bytes],
    log: IO[bytes],
    what: str,
    advance: Callable[[int], None],
) -> tuple[int, Message | None]:
    """Run the child process to its end; return its exit status and last message."""
    last: Message | None = None
    job_type = type(job)
    argv = [sys.executable, "-m", "packager.jobs", job_type.__module__, job_type.__name__]
    with Program(
        [*argv, *([target] if target is not None else [])],
        what=what,
        stdin=fields,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **OFFLINE},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = msgspec.json.decode(line, type=Message)
            if isinstance(last, Progress):
                advance(last.amount)
        return process.wait(), last


def _memory_file(content: bytes) -> IO[bytes]:
    """Create an in-memory file, which works even if the disk is full; beyond Linux, on the disk."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("job"), "w+b")
    else:
        file = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (the caller closes it)
    file.write(content)
    file.seek(0)
    return file


def _result_type(job: Job[Result]) -> type[Result]:
    result_type: type[Result] = get_type_hints(type(job).run)["return"]
    return result_type


def _check_resources(status: int, kills: int | None, target: Path | None, what: str) -> None:
    """Raise an error if memory or disk space ran out.

    Args:
        status: exit status of the process, or the negated number of the signal that ended it.
        kills: value of `machine.oom_kills` before the process started.
        target: folder that the process wrote to; None for the cache, where its result would go.
        what: name of the activity.
    """
    killed = status in _KILLED and (kills is None or machine.oom_kills() != kills)
    if status == messages.OUT_OF_MEMORY or killed:
        raise ResourceError(
            f"{what}: the machine ran out of memory",
            hint="Close other programs, or use a smaller model.",
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
    """Return the error for a job that itself failed; write the log to a file."""
    lines = [line for line in log.splitlines() if line.strip()]
    if status < 0:
        reason = f"its process was killed by {signal.Signals(-status).name}"
    else:
        reason = lines[-1] if lines else f"its process exited with status {status}"
    path = cache.root() / "last-failure.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines[-TAIL_LINES:]) + "\n", encoding="utf-8")
    return error(f"{what} failed: {reason} (more in {path})", hint=hint)
