"""Following the devices of a broker: as a table on a terminal, or as lines of JSON."""

import json
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live

from packager import console
from packager.fleet import table
from packager.fleet.connection import Connection
from packager.fleet.devices import Fleet

LINE = 160
"""Width of the table in a file, columns."""
DRAW_S = 0.5
"""Time between two drawings of the table."""
QUIET_S = 2.0
"""Time without a retained message after which all have come."""


def show(connection: Connection, fleet: Fleet, *, seconds: float | None, lines: bool) -> None:
    """Show devices until the time is up, or for ever.

    Args:
        connection: connection that gets the devices' topics.
        fleet: the devices.
        seconds: time after which to end; None for no end.
        lines: print a line of JSON for each change, instead of the table.
    """
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    screen = Console()
    if not screen.is_terminal:
        screen = Console(width=LINE)
    if lines:
        while (left := end - time.monotonic()) > 0:
            for topic, content, _ in connection.waiting(min(left, DRAW_S)):
                device = fleet.take(topic, content)
                if device is not None:
                    console.result_piece(json.dumps(device.row(), ensure_ascii=False) + "\n")
        return
    if not screen.is_terminal:
        while (left := end - time.monotonic()) > 0:
            _take(connection, fleet, min(left, DRAW_S))
        screen.print(table.rendered(fleet.selected(), height=1 << 30))
        return
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        while (left := end - time.monotonic()) > 0:
            _take(connection, fleet, min(left, DRAW_S))
            live.update(table.rendered(fleet.selected(), screen.height), refresh=True)
            time.sleep(min(DRAW_S, max(end - time.monotonic(), 0)))


def gather(connection: Connection, take: Callable[[str, bytes], Any]) -> None:
    """Take what the broker has retained, until no more of it comes."""
    since = time.monotonic()
    while time.monotonic() < since + QUIET_S:
        for topic, content, retained in connection.waiting(QUIET_S / 4):
            take(topic, content)
            if retained:
                since = time.monotonic()


def _take(connection: Connection, fleet: Fleet, seconds: float) -> None:
    for topic, content, _ in connection.waiting(seconds):
        fleet.take(topic, content)
