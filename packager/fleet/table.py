"""The live table of `edgepack fleet watch`."""

from collections import Counter

import rich.box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from packager.fleet.devices import Device

_COLOURS = {"failed": "red", "degraded": "yellow", "offline": "red", "ok": "green"}
_HEADER = (
    *("device", "state", "profile", "release", "tokens/s", "\u00b0C"),
    *("last event", "problem"),
)


def summary(devices: list[Device]) -> str:
    """Count devices by state and by health, in one line."""
    states = Counter(device.state or "unknown" for device in devices)
    health = Counter(device.health for device in devices if device.health not in ("", "ok"))
    parts = [f"{count} {name}" for name, count in sorted((states + health).items())]
    plural = "" if len(devices) == 1 else "s"
    return f"{len(devices)} device{plural}: {', '.join(parts) or 'none has reported'}"


def rendered(devices: list[Device], height: int) -> Group:
    """Render devices for a terminal of some lines; those that do not fit are counted."""
    room = max(height - 5, 1)
    grid = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(_HEADER):
        last = number == len(_HEADER) - 1
        grid.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    for device in devices[:room]:
        grid.add_row(*_cells(device))
    left = len(devices) - room
    more = [Text(f"... and {left} more")] if left > 0 else []
    return Group(Text(summary(devices)), grid, *more)


def _cells(device: Device) -> list[Text]:
    state = device.health if device.state == "online" and device.health else device.state
    return [
        Text(device.device),
        Text(state, _COLOURS.get(state, "")),
        Text(device.profile),
        Text(f"{device.version} {device.release[:8]}"),
        Text(f"{device.tokens_per_s:.1f}" if device.tokens_per_s is not None else ""),
        Text(f"{device.temperature_c:.0f}" if device.temperature_c is not None else ""),
        Text(device.last_event),
        Text("; ".join(device.problems)),
    ]
