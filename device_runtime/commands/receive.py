"""`edgepack-runtime receive`: the device's end of `edgepack flash BUNDLE ssh://...`."""

import io
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import msgspec


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only answer what this device lacks.")
@click.option("--whole", is_flag=True, help="Lack also what is here in other forms.")
def receive(folder: Path, dry_run: bool, whole: bool) -> None:
    """Receive a bundle from standard input into FOLDER, as the module `update.incoming` says."""
    from device_runtime.bundle.source import Shared, nothing_shared
    from device_runtime.update import incoming
    from device_runtime.update.links import STATE
    from device_runtime.update.releases import Releases
    from device_runtime.update.target import Target

    def answer(value: msgspec.Struct) -> None:
        click.echo(f"{incoming.ANSWER}{msgspec.json.encode(value).decode()}")

    shared: Shared = nothing_shared
    with ExitStack() as opened:
        if not whole:
            target = Target(Path("/"))
            shared = incoming.unpacked(folder)
            with suppress(OSError):  # the state folder is missing: nothing was ever installed
                state = opened.enter_context(target.folder(STATE))
                shared = incoming.either(Releases(target, state).shared, shared)
        stream = sys.stdin.buffer
        assert isinstance(stream, io.BufferedIOBase)
        incoming.receive(folder, stream, answer, shared, dry_run=dry_run)
