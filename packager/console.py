"""Output to the user: steps and progress on stderr, results on stdout. All printing is here."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import click
import rich.box
import rich.progress
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from packager.schedule import Schedule
from packager.units import duration

_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False)
REPORTED_S, SHORT_S = 60, 10
"""Times from which on it is worth a line of a log what is left: what is left itself, and the stage
before it, which may have been in the cache."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Work beside other work is indented on its own.
_depth = ContextVar("depth", default=0)
_schedule: ContextVar[Schedule | None] = ContextVar("schedule", default=None)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a long step, and report its duration if it succeeds."""
    indent = _indent()
    _stderr.print(f"{indent}[bold]{_plain(title)}[/bold] ...")
    started = time.monotonic()
    depth = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(depth)
    _stderr.print(
        f"{indent}[green]done[/green] {_plain(title)} ({time.monotonic() - started:.1f} s)"
    )


def _plain(text: str) -> str:
    """Escape markup, and what would control the terminal: texts may come from a bundle."""
    return escape(_CONTROL.sub(lambda match: repr(match[0])[1:-1], text))


def _indent() -> str:
    return "  " * _depth.get()


def note(message: str) -> None:
    """Print a note about the step in progress."""
    _stderr.print(f"{_indent()}{_plain(message)}", soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning."""
    _stderr.print(f"{_indent()}[yellow]warning:[/yellow] {_plain(message)}", soft_wrap=True)


def error(message: str, hint: str = "") -> None:
    """Print an error, and a hint about what to do next."""
    _stderr.print(f"[red]error:[/red] {_plain(message)}", soft_wrap=True)
    if hint:
        _stderr.print(f"[cyan]hint:[/cyan] {_plain(hint)}", soft_wrap=True)


def ask(question: str) -> str | None:
    """Ask the user a question on the terminal; None if there is no terminal."""
    return _stderr.input(f"{escape(question)} ") if sys.stdin.isatty() else None


@contextmanager
def progress(title: str, total: int, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by some units."""
    columns: list[rich.progress.ProgressColumn] = [
        rich.progress.TextColumn(_indent() + "{task.description}"),
        rich.progress.BarColumn(),
    ]
    if unit == "bytes":
        columns += [rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn()]
    else:
        columns += [rich.progress.MofNCompleteColumn(), rich.progress.TextColumn(unit)]
    columns.append(rich.progress.TimeRemainingColumn())
    with rich.progress.Progress(
        *columns, console=_stderr, transient=True, disable=not _stderr.is_terminal
    ) as bar:
        task = bar.add_task(_plain(title), total=total)
        schedule, done = _schedule.get(), 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            bar.advance(task, amount)
            if schedule is not None:
                schedule.advance(min(done / max(total, 1), 1.0))

        yield advance


@contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """Show a line that changes, on a terminal; yield the function that sets it."""
    if not _stderr.is_terminal:
        yield lambda _: None
        return
    with Live(console=_stderr, transient=True) as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow="ellipsis"))


@contextmanager
def scheduled(schedule: Schedule | None) -> Iterator[None]:
    """Show, in one line on a terminal, how much of the stages in the block is left.

    Args:
        schedule: the stages, to which `expect` adds; None for work that is not part of them.
    """
    before = _schedule.set(schedule)
    shown = schedule is not None and _stderr.is_terminal
    line = rich.progress.Progress(
        _Left(schedule), console=_stderr, transient=True, disable=not shown
    )
    try:
        with line:
            line.add_task("")
            yield
    finally:
        _schedule.reset(before)
    for name, stage in schedule.stages.items() if schedule is not None else ():
        if stage.expected and stage.seen >= 1:
            note(f"{name}: took {duration(stage.seen)}, forecast {duration(stage.expected)}")


class _Left(rich.progress.ProgressColumn):
    """The column, and the whole line, that shows what is left of a schedule."""

    def __init__(self, schedule: Schedule | None) -> None:
        super().__init__()
        self._schedule = schedule

    def render(self, task: rich.progress.Task) -> Text:
        if self._schedule is None or not self._schedule.stages:
            return Text("")
        part, left = self._schedule.part(), self._schedule.left()
        if left < 1:  # what follows the stages, or a stage that takes longer than forecast
            return Text("Whole build: nearly done", "bold")
        return Text(f"Whole build: {100 * part:.0f} %, up to {duration(left)} left", "bold")


def expect(seconds: Mapping[str, float]) -> None:
    """Add stages to the schedule, with their forecasts in seconds."""
    schedule = _schedule.get()
    if schedule is not None:
        schedule.expect(seconds)


def skip_rest() -> None:
    """Remove the stages that have not begun from the schedule."""
    schedule = _schedule.get()
    if schedule is not None:
        schedule.skip_rest()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Run the clock of a stage of the schedule while a block runs; then report what is left."""
    schedule = _schedule.get()
    if schedule is None:
        yield
        return
    with schedule.stage(name) as stage:
        before = stage.seen
        yield
    left = schedule.left()
    if left >= REPORTED_S and stage.seen - before >= SHORT_S and not _stderr.is_terminal:
        note(f"up to {duration(left)} left")


def secret(prompt: str, *, confirm: bool = False) -> str:
    """Let the user type a secret, which is not shown.

    Args:
        prompt: words before the cursor.
        confirm: let it be typed twice.
    """
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return typed


def result(text: str) -> None:
    """Print a result on stdout."""
    _stdout.print(_plain(text), soft_wrap=True)


def result_piece(text: str) -> None:
    """Print a piece of a result on stdout as it arrives, without a line break."""
    sys.stdout.write(text)
    sys.stdout.flush()


def result_json(value: Any) -> None:
    """Print a result on stdout as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout."""
    grid = Table(
        title=_plain(title) or None,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        show_header=any(header),
        pad_edge=False,
    )
    for number, name in enumerate(header):
        grid.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*(_plain(cell) for cell in row))
    _stdout.print(grid)
