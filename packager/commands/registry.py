"""Commands on bundles in OCI registries: `push` and `pull`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from packager import console
from packager.commands.options import access, access_options, as_json, bundle_argument


@click.command()
@bundle_argument
@click.argument("destination", metavar="oci://HOST/REPOSITORY:TAG")
@access_options
@as_json
def push(bundle: Path, destination: str, as_json: bool, **options: Any) -> None:
    """Upload a BUNDLE to an OCI registry; blobs that the repository has are not sent again.

    \b
    Example:
      edgepack push BUNDLE.epk oci://registry.example/team/bundle:1.0
    """
    from packager.registry.push import push as send

    pushed = send(bundle, destination, access(**options))
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
@access_options
@as_json
def pull(origin: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Download a bundle from an OCI registry, by its tag or by its digest.

    \b
    Example:
      edgepack pull oci://registry.example/team/bundle:1.0 -o bundle.epk
    """
    from packager.registry.pull import pull as receive

    pulled = receive(origin, output, access(**options))
    if as_json:
        console.result_json({**asdict(pulled), "path": str(pulled.path)})
    else:
        console.result(str(pulled.path))
