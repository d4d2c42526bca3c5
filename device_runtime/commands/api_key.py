"""`edgepack-runtime api-key`: management of the API keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import as_json, config_file, resolve_anywhere
from device_runtime.errors import ServiceError


@click.group("api-key")
def api_key() -> None:
    """Create, list and revoke the API keys that the service accepts.

    A running service applies changes at once.
    """


def _file(command: Callable[..., Any]) -> Callable[..., Any]:
    return config_file(
        click.option(
            "--file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File of API keys.  [default: api_keys_file of the configuration]",
        )(command)
    )


@api_key.command()
@click.argument("name")
@_file
@as_json
def new(name: str, file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Create a key named NAME and print it; it cannot be shown again.

    \b
    Example:
      sudo edgepack-runtime api-key new laptop --file /etc/edgepack/api-keys
    """
    from device_runtime.server import api_keys

    target = _chosen(file, config_file)
    key = api_keys.create(target, name)
    click.echo(json.dumps({"name": name, "key": key}) if as_json else key)
    click.echo(f"{target} stores only a digest: this key cannot be shown again", err=True)


@api_key.command("list")
@_file
@as_json
def list_keys(file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the names of the keys and when they were created."""
    from device_runtime.server import api_keys

    keys = api_keys.read(_chosen(file, config_file)).values()
    if as_json:
        click.echo(json.dumps([{"name": key.name, "made": key.created} for key in keys]))
        return
    for key in keys:
        click.echo(f"{key.created}  {key.name}")


@api_key.command()
@click.argument("name")
@_file
@as_json
def revoke(name: str, file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Revoke the key named NAME: it is refused from now on."""
    from device_runtime.server import api_keys

    target = _chosen(file, config_file)
    api_keys.revoke(target, name)
    click.echo(json.dumps({"revoked": name}) if as_json else f"{name} is revoked")


def _chosen(file: Path | None, config_file: Path | None) -> Path:
    """Return the file of the command line, else the configured one.

    Raises:
        ServiceError: neither is set.
    """
    chosen = file or resolve_anywhere(None, config_file).config.api_keys_file
    if chosen is None:
        raise ServiceError(
            "no file of API keys is configured",
            hint="Set one with --file FILE, and serve with --api-keys-file FILE.",
        )
    return chosen
