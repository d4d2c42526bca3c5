"""Subprocesses on the host; all are started here."""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager.errors import CommandError

TAIL_LINES = 30


class Program(subprocess.Popen[bytes]):
    """A program in its own process group.

    Ctrl-C reaches the program once, from here, together with its children: an exception that leaves
    the `with` block terminates them all.
    """

    def __init__(self, argv: Sequence[str | Path], *, what: str, **options: Any) -> None:
        """Start the program.

        Args:
            argv: program and arguments.
            what: title of the step, for the error message ("Building the model").
            options: further options of `subprocess.Popen`.

        Raises:
            CommandError: the program is missing.
        """
        try:
            super().__init__([str(part) for part in argv], start_new_session=True, **options)
        except FileNotFoundError:
            raise CommandError(f"{what}: the program {argv[0]} was not found") from None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            stop_group(self)
        super().__exit__(kind, error, trace)


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return its output (stdout and stderr together).

    Args:
        argv: program and arguments.
        what: title of the step, for the error message ("Building the model").
        env: the whole environment; None for the caller's own.
        cwd: working folder.

    Raises:
        CommandError: the program is missing, or exited with a status other than 0; `log` has
            its last lines of output.
    """
    with Program(
        argv,
        what=what,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(env) if env is not None else None,
        cwd=cwd,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        status = process.wait()
    if status != 0:
        reason = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        tail = "".join(deque(output.splitlines(keepends=True), TAIL_LINES))
        raise CommandError(f"{what}: {Path(argv[0]).name} {reason}", log=tail)
    return output


def stop_group(process: subprocess.Popen[Any], patience_s: float = 5.0) -> None:
    """Terminate a process with its own group, and all its descendants; wait for it to end."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        break
