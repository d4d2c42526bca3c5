"""Entry point of the process that runs a job; `harness.run_job` spawns it:

    python -m packager.jobs MODULE TYPE [FOLDER]

MODULE and TYPE name the job's class, stdin carries its fields as JSON, stdout is the pipe for the
`messages`, and FOLDER receives the job's files.
"""

import ctypes
import gc
import importlib
import os
import platform
import signal
import sys
import traceback
from pathlib import Path

import msgspec

from packager import machine
from packager.jobs import job, keys, messages
from packager.jobs.messages import Done, Message, Progress, Refused

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LARGE = {"torch": "torch", "transformers": "transformers.models.auto.tokenization_auto"}
"""Modules that take seconds to import, by the packages that a job imports."""


def main(module: str, name: str, *folder: str) -> int:
    """Run the job that stdin describes and return the exit status."""
    if platform.system() == "Linux":
        # If the parent is killed, the next build may be at the same files before this job is done.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What libraries print goes where stderr does. Processes that the job spawns do not inherit the
    # pipe: they must not keep it open after the job has ended.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _import_large(module)

    def send(message: Message) -> None:
        pipe.write(msgspec.json.encode(message) + b"\n")
        pipe.flush()

    job_type: type[job.Job[object]] = getattr(importlib.import_module(module), name)
    work = job.Work(Path(*folder) if folder else None, lambda amount: send(Progress(amount)))
    try:
        result = job.decode(sys.stdin.buffer.read(), job_type).run(work)
    except job.JobRefusedError as refusal:
        send(Refused(str(refusal), refusal.hint))
        return 0
    except Exception as error:
        traceback.print_exc()
        return messages.status_of(error)
    send(Done(msgspec.Raw(msgspec.json.encode(result)), machine.peak_memory()))
    return 0


def _import_large(module: str) -> None:
    """Import the large packages that a job's module needs, ahead of their first use.

    They create a million objects that stay. The search for unreachable ones would go through them
    again and again: a fourth of the time of a short job.
    """
    _, packages = keys.sources([module])
    gc.disable()
    for package in packages.keys() & _LARGE:
        importlib.import_module(_LARGE[package])
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    if status == 0:
        # The result is sent: without the half second in which torch takes itself apart, and
        # whatever libraries do then.
        os._exit(0)
    sys.exit(status)
