"""Commands for frozen runtimes: `kit build|list|export|import`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import as_json, kit_argument


@click.group()
def kit() -> None:
    """Build, list and transfer frozen runtimes."""


@kit.command("build")
@kit_argument
@as_json
def kit_build(name: str, as_json: bool) -> None:
    """Freeze the runtime for a platform (cached).

    \b
    Example:
      edgepack kit build linux-aarch64-cpu
    """
    from packager import kit as kits
    from packager.report import tables

    with console.step(f"Getting the runtime {name}"):
        built = kits.ensure(name)
    if as_json:
        console.result_json(tables.kit_json(built))
    else:
        tables.kits_text([built])


@kit.command("list")
@as_json
def kit_list(as_json: bool) -> None:
    """List the kits in the cache."""
    from packager import kit as kits
    from packager.report import tables

    installed = kits.installed()
    if as_json:
        console.result_json([tables.kit_json(kit) for kit in installed])
    else:
        tables.kits_text(installed)


@kit.command("export")
@kit_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def kit_export(name: str, file: Path) -> None:
    """Write a kit to FILE, to be imported on a machine that cannot build it."""
    from packager import kit as kits

    kits.export(name, file)
    console.result(f"wrote {file}")


@kit.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def kit_import(file: Path) -> None:
    """Import a kit from FILE into the cache. Only from a source you trust: a kit is a program."""
    from packager import kit as kits

    imported = kits.import_(file)
    console.result(f"imported {imported.facts.name}")
