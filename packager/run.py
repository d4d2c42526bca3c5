"""The only door to subprocesses on the host."""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packager.errors import CommandError

TAIL_LINES = 30


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end and return what it printed (stdout and stderr together).

    The program gets a process group of its own, so that Ctrl-C reaches it once, from here,
    and takes its children along.

    Args:
        argv: program and arguments.
        what: what is being done, for the error message ("Building the model").
        env: the whole environment; the caller's own if None.
        cwd: working folder.
        on_line: called with each line as it is printed.

    Raises:
        CommandError: the program is missing, or ended with a status other than 0; `log` has
            the last lines it printed.
    """
    try:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise CommandError(f"{what}: the program {argv[0]} was not found") from None
    lines: list[str] = []
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if on_line is not None:
                    on_line(line.rstrip("\n"))
            status = process.wait()
        except BaseException:
            stop_group(process)
            raise
    if status != 0:
        reason = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        tail = "".join(deque(lines, TAIL_LINES))
        raise CommandError(f"{what}: {Path(argv[0]).name} {reason}", log=tail)
    return "".join(lines)


def stop_group(process: subprocess.Popen[str], patience_s: float = 5.0) -> None:
    """End a process started with its own group, and everything it started; wait for it."""
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
