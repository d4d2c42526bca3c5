"""`edgepack-runtime config`: the configuration and the origin of its values."""

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
    """Show the configuration."""


@config.command(cls=Grouped)
@configured()
@release
@config_file
@as_json
def show(release: Path | None, config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Print every option with its value and the value's origin.

    Accepts the flags of `serve`, to see what they would change. No option is secret: passwords and
    keys are in files, and only the paths are shown.

    \b
    Examples:
      edgepack-runtime config show
      edgepack-runtime config show --parallel 4 --json
    """
    resolved = resolve_anywhere(release, config_file, **flags)
    values = msgspec.to_builtins(resolved.config, enc_hook=str)
    origins = resolved.origins
    if as_json:
        result = {name: {"value": values[name], "origin": origins[name]} for name in values}
        click.echo(json.dumps(result))
        return
    texts = {name: _readable(value) for name, value in values.items()}
    widths = [max(map(len, column)) for column in (texts.keys(), texts.values())]
    for name, value in texts.items():
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origins[name]}")


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(value) if isinstance(value, list | tuple) else value
    return "-" if text in (None, "") else str(text)
