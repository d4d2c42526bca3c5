"""`edgepack-runtime config`: what is configured, and by what."""

import json
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import (
    Grouped,
    as_json,
    config_file,
    configured,
    release,
    resolve_anywhere,
)


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command(cls=Grouped)
@configured()
@release
@config_file
@as_json
def show(release: Path | None, config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Print every option, its value and where that came from.

    Takes the flags of `serve`, to see what they would change. Nothing that is secret is an option:
    passwords and keys are in files, of which the path is shown.

    \b
    Examples:
      edgepack-runtime config show
      edgepack-runtime config show --parallel 4 --json
    """
    found = resolve_anywhere(release, config_file, **flags)
    values = {name: _plain(getattr(found.config, name)) for name in found.origins}
    if as_json:
        both = {
            name: {"value": value, "origin": found.origins[name]} for name, value in values.items()
        }
        click.echo(json.dumps(both))
        return
    shown = {name: _readable(value) for name, value in values.items()}
    widths = [max(map(len, column)) for column in (shown.keys(), shown.values())]
    for name, value in shown.items():
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {found.origins[name]}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _readable(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else f"{value}"
