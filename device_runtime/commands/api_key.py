"""`edgepack-runtime api-key`: who may ask this device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import as_json, config_file, resolve_anywhere
from device_runtime.errors import ServiceError


@click.group("api-key")
def api_key() -> None:
    """Make, list and revoke the API keys that the service accepts.

    A running service sees a change at once.
    """


def _file(command: Callable[..., Any]) -> Callable[..., Any]:
    return config_file(
        click.option(
            "--file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File of keys.  [default: api_keys_file of the configuration]",
        )(command)
    )


@api_key.command()
@click.argument("name")
@_file
@as_json
def new(name: str, file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Make a key for NAME and print it, this one time.

    \b
    Example:
      sudo edgepack-runtime api-key new laptop --file /etc/edgepack/api-keys
    """
    from device_runtime.server import api_keys

    target = _chosen(file, config_file)
    key = api_keys.create(target, name)
    click.echo(json.dumps({"name": name, "key": key}) if as_json else key)
    click.echo(f"{target} has only its digest: this key is not shown again", err=True)


@api_key.command("list")
@_file
@as_json
def list_keys(file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the names of the keys, and when they were made."""
    from device_runtime.server import api_keys

    keys = api_keys.read(_chosen(file, config_file)).values()
    if as_json:
        click.echo(json.dumps([{"name": key.name, "made": key.made} for key in keys]))
        return
    for key in keys:
        click.echo(f"{key.made}  {key.name}")


@api_key.command()
@click.argument("name")
@_file
@as_json
def revoke(name: str, file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Remove the key of NAME: it is refused from now on."""
    from device_runtime.server import api_keys

    target = _chosen(file, config_file)
    api_keys.revoke(target, name)
    click.echo(json.dumps({"revoked": name}) if as_json else f"{name} is revoked")


def _chosen(file: Path | None, config_file: Path | None) -> Path:
    """The file given, else the configured one.

    Raises:
        ServiceError: there is neither.
    """
    chosen = file or resolve_anywhere(None, config_file).config.api_keys_file
    if chosen is None:
        raise ServiceError(
            "no file of API keys is configured",
            hint="Name one: --file FILE; and serve with --api-keys-file FILE.",
        )
    return chosen
