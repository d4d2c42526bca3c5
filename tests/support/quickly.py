"""Run `edgepack` in less time: `python -m tests.support.quickly ARGUMENTS`.

Each job of a build is a process that imports torch and transformers, in three seconds; here all
jobs of a build run in this one. And a kit is compressed in a twentieth of the time, to more bytes.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from packager import bundle, cli
from packager.jobs import harness
from packager.jobs.job import Job
from packager.jobs.messages import Message
from tests.support import jobs


def run_here(
    job: Job[Any],
    target: Path | None,
    fields: IO[bytes],
    log: IO[bytes],
    what: str,
    advance: Callable[[int], None],
) -> tuple[int, Message | None]:
    """Run a job in this process; takes the place of `harness._process`."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(log.fileno(), 1)
    try:
        return jobs.here(job, target, fields, log, what, advance)
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


if __name__ == "__main__":
    # The million objects of torch and transformers stay until the end.
    gc.disable()
    bundle.LEVEL = 1
    harness._process = run_here
    sys.exit(cli.main())
