"""The command `diff`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import as_json

bundle_path = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("old", type=bundle_path)
@click.argument("new", type=bundle_path)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the update, for devices that have OLD: UPDATE.epk",
)
@as_json
def diff(old: Path, new: Path, output: Path | None, as_json: bool) -> None:
    """Show what an update from OLD to NEW moves, record by record, and write it.

    An update holds only what devices with OLD lack, and installs the same release as NEW, with the
    same signatures. Files that differ a little are patches. Other devices need NEW itself.

    \b
    Examples:
      edgepack diff 1.0.0.epk 1.1.0.epk
      edgepack diff 1.0.0.epk 1.1.0.epk -o update.epk
    """
    from packager.diff import diff as compare
    from packager.report import differences

    difference = compare(old, new, output)
    if as_json:
        console.result_json(differences.as_json(difference, output))
    else:
        differences.as_text(difference, output)
