"""`edgepack-runtime receive`: the device's end of `edgepack flash BUNDLE ssh://...`."""

import os
import sys
from pathlib import Path

import click
import msgspec


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only answer what this device lacks.")
@click.option("--whole", is_flag=True, help="Lack also what is here in other forms.")
def receive(folder: Path, dry_run: bool, whole: bool) -> None:
    """Receive a bundle from standard input into FOLDER, as the module `update.incoming` says."""
    from device_runtime.bundle.source import nothing_shared
    from device_runtime.update import incoming
    from device_runtime.update.target import Target

    def answer(value: msgspec.Struct) -> None:
        click.echo(f"{incoming.ANSWER}{msgspec.json.encode(value).decode()}")

    with (
        os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as stream,
        incoming.installed(Target(Path("/"))) as installed,
    ):
        here = incoming.either(installed, incoming.unpacked(folder))
        shared = nothing_shared if whole else here
        incoming.receive(folder, stream, answer, shared, dry_run=dry_run)
