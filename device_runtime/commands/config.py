"""`edgepack-runtime config`: what is configured, and by what."""

import json
from pathlib import Path
from typing import Any

import click
import msgspec

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
    resolved = resolve_anywhere(release, config_file, **flags)
    values = msgspec.to_builtins(resolved.config, enc_hook=str)
    origins = resolved.origins
    if as_json:
        both = {name: {"value": values[name], "origin": origins[name]} for name in values}
        click.echo(json.dumps(both))
        return
    shown = {name: _readable(value) for name, value in values.items()}
    widths = [max(map(len, column)) for column in (shown.keys(), shown.values())]
    for name, value in shown.items():
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origins[name]}")


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(value) if isinstance(value, list | tuple) else value
    return "-" if text in (None, "") else str(text)
