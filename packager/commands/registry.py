"""Commands on bundles in OCI registries: `push` and `pull`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from packager import console
from packager.commands.options import as_json, bundle_argument

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--username",
        help="User name at the registry.  [default: the login in Docker's config.json]",
    ),
    click.option(
        "--password-file", type=_FILE, help="File with the password or token of that user."
    ),
    click.option("--ca-file", type=_FILE, help="Certificates to trust besides the system's, PEM."),
    click.option(
        "--plain-http", is_flag=True, help="Use HTTP without encryption (on this machine: default)."
    ),
)


def _access_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@bundle_argument
@click.argument("destination", metavar="oci://HOST/REPOSITORY:TAG")
@_access_options
@as_json
def push(bundle: Path, destination: str, as_json: bool, **access: Any) -> None:
    """Upload a BUNDLE to an OCI registry; blobs that the repository has are not sent again.

    \b
    Example:
      edgepack push BUNDLE.epk oci://registry.example/team/bundle:1.0
    """
    from packager.registry.push import push as send

    pushed = send(bundle, destination, _access(**access))
    if as_json:
        console.result_json(asdict(pushed))
    else:
        console.note(f"{pushed.sent} of {pushed.size} bytes were new to the repository")
        console.result(pushed.reference)


@click.command()
@click.argument("origin", metavar="oci://HOST/REPOSITORY:TAG")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Path of the bundle.  [default: ID-VERSION.epk]",
)
@_access_options
@as_json
def pull(origin: str, output: Path | None, as_json: bool, **access: Any) -> None:
    """Download a bundle from an OCI registry, by its tag or by its digest.

    \b
    Example:
      edgepack pull oci://registry.example/team/bundle:1.0 -o bundle.epk
    """
    from packager.registry.pull import pull as receive

    pulled = receive(origin, output, _access(**access))
    if as_json:
        console.result_json({**asdict(pulled), "path": str(pulled.path)})
    else:
        console.result(str(pulled.path))


def _access(username: str | None, password_file: Path | None, **others: Any) -> Any:
    """Check the options for the access to a registry, and collect them."""
    from packager.registry.access import Access

    if (username is None) != (password_file is None):
        raise click.UsageError("--username and --password-file require each other")
    return Access(username=username, password_file=password_file, **others)
