"""Subprocesses on the host; all are started here."""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, TypeVar

import psutil

from packager.errors import CommandError

TAIL_LINES = 30
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a program for both

Result = TypeVar("Result")


class Program(subprocess.Popen[bytes]):
    """A program in its own process group, unless it needs the terminal.

    Ctrl-C reaches the program once, from here, together with its children: an exception that leaves
    the `with` block terminates them all.
    """

    def __init__(
        self, argv: Sequence[str | Path], *, what: str, terminal: bool = False, **options: Any
    ) -> None:
        """Start the program.

        Args:
            argv: program and arguments.
            what: title of the step, for the error message ("Building the model").
            terminal: let the program ask the user; Ctrl-C then reaches it as it does this one.
            options: further options of `subprocess.Popen`.

        Raises:
            CommandError: the program is missing.
        """
        try:
            super().__init__(
                [str(part) for part in argv], start_new_session=not terminal, **options
            )
        except FileNotFoundError:
            raise CommandError(f"{what}: the program {argv[0]} was not found") from None
        self._signal = self.send_signal if terminal else self._signal_group
        self._programs = _programs.get()
        if self._programs is not None:
            self._programs.add(self)

    def stop(self, patience_s: float = 5.0) -> None:
        """Terminate the program and, in its own group, its descendants; wait for it to end."""
        for sig in (signal.SIGTERM, _KILL):
            try:
                self._signal(sig)
            except ProcessLookupError:
                break
            try:
                self.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            break

    def _signal_group(self, sig: int) -> None:
        if hasattr(os, "killpg"):
            os.killpg(self.pid, sig)
            return
        # Windows: without groups, the descendants are looked up.
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.kill()
        self.send_signal(sig)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.stop()
        super().__exit__(kind, error, trace)
        if self._programs is not None:
            self._programs.remove(self)


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> str:
    """Run a program to its end and return its output (stdout and stderr together).

    Args:
        argv: program and arguments.
        what: title of the step, for the error message ("Building the model").
        env: the whole environment; None for the caller's own.
        cwd: working folder.
        hint: what to do if the program fails.

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
        raise CommandError(f"{what}: {Path(argv[0]).name} {reason}", log=tail, hint=hint)
    return output


class StoppedError(Exception):
    """Work that was stopped because other work beside it failed."""


class _Programs:
    """Programs that are stopped together; once they are, none that is started goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Program] = set()
        self._stopped = False

    def add(self, program: Program) -> None:
        with self._lock:
            self._running.add(program)
            stopped = self._stopped
        if stopped:
            program.stop()

    def remove(self, program: Program) -> None:
        with self._lock:
            self._running.discard(program)

    def check(self) -> None:
        if self._stopped:
            raise StoppedError

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for program in running:
            program.stop()


_programs: ContextVar[_Programs | None] = ContextVar("programs", default=None)


@contextmanager
def beside(work: Callable[[], Result]) -> Iterator[Future[Result]]:
    """Do work in a thread while a block runs; the block ends when both are done.

    If either fails or is interrupted, the programs of the other are stopped, and the first error is
    raised. Long work without a program calls what `stop_check` returns.

    Yields:
        The result of the work, for after the block.
    """
    programs = _Programs()
    future: Future[Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
            programs.stop()

    before = _programs.set(programs)
    threading.Thread(target=copy_context().run, args=(do,)).start()
    # `Thread.join` will not do: in Python 3.11, a thread counts as ended once that is interrupted.
    try:
        yield future
        wait([future])
    except BaseException as error:
        first = future.exception() if future.done() else None
        programs.stop()
        wait([future])
        if first is not None and isinstance(error, Exception):
            raise first from None
        raise
    finally:
        _programs.reset(before)
    future.result()


def stop_check() -> Callable[[], None]:
    """Return a function, for any thread, that raises StoppedError once this work is stopped."""
    programs = _programs.get()
    return programs.check if programs is not None else lambda: None
