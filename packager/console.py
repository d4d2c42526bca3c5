"""Output to the user: steps and progress on stderr, results on stdout. All printing is here."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import click
import rich.box
import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Work beside other work is indented on its own.
_depth = ContextVar("depth", default=0)


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
        yield lambda amount: bar.advance(task, amount)


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
