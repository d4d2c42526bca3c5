"""Commands for frozen runtimes: `kit build|list|package|push|export|import`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from packager import console
from packager.commands.options import access, access_options, as_json, kit_argument


@click.group()
def kit() -> None:
    """Build, list and transfer frozen runtimes."""


@kit.command("build")
@kit_argument
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with wheels of ONNX Runtime and ONNX Runtime GenAI to freeze.",
)
@click.option("--index-url", help="Package index to fetch these two wheels from.", metavar="URL")
@as_json
def kit_build(name: str, wheels: Path | None, index_url: str | None, as_json: bool) -> None:
    """Get the runtime for a platform: installed, imported, or frozen here (cached).

    Kits with CUDA also take builds of your own in place of the pinned packages, with --wheels or
    --index-url; bundles are built with that kit from then on (docs/jetson.md).

    \b
    Examples:
      edgepack kit build linux-aarch64-cpu
      edgepack kit build linux-aarch64-cuda --wheels orin-wheels
    """
    if wheels is not None and index_url is not None:
        raise click.UsageError("pass either --wheels or --index-url")
    from packager import kit as kits
    from packager.report import tables

    with console.step(f"Getting the runtime {name}"):
        own = wheels or index_url
        built = kits.ensure(name) if own is None else kits.with_wheels(name, own)
    if as_json:
        console.result_json(tables.kit_json(built, kits.packaged()))
    else:
        tables.kits_text([built], kits.packaged())


@kit.command("list")
@as_json
def kit_list(as_json: bool) -> None:
    """List the kits in the cache and in installed packages, and where each comes from."""
    from packager import kit as kits
    from packager.report import tables

    installed, packages = kits.installed(), kits.packaged()
    if as_json:
        console.result_json(tables.kits_json(installed, packages))
    else:
        tables.kits_text(installed, packages)


@kit.command("package")
@kit_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Folder for the wheel.  [default: the working folder]",
)
@as_json
def kit_package(name: str, output: Path, as_json: bool) -> None:
    """Write a kit as a wheel, to be installed with pip on any machine.

    \b
    Example:
      edgepack kit package linux-aarch64-cpu --output dist
      pip install dist/edgepack_kit_linux_aarch64_cpu-*.whl       # on the other machine
    """
    from packager import kit as kits
    from packager.cache import file_digest
    from packager.units import megabytes

    path = kits.write_package(kits.ensure(name), output)
    size = path.stat().st_size
    if as_json:
        console.result_json({"wheel": str(path), "size": size, "sha256": file_digest(path)})
    else:
        console.result(f"{path} ({megabytes(size)})")


@kit.command("push")
@kit_argument
@click.argument("destination", metavar="oci://HOST/REPOSITORY:TAG")
@access_options
@as_json
def kit_push(name: str, destination: str, as_json: bool, **options: Any) -> None:
    """Upload a kit to an OCI registry.

    \b
    Example:
      edgepack kit push linux-aarch64-cpu oci://registry.example/team/kits:0.1.0
    """
    from packager import kit as kits
    from packager.registry.kits import push

    pushed = push(kits.ensure(name), destination, access(**options))
    if as_json:
        console.result_json(asdict(pushed))
    else:
        console.note(f"{pushed.sent} of {pushed.size} bytes were new to the repository")
        console.result(pushed.reference)


@kit.command("export")
@kit_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def kit_export(name: str, file: Path) -> None:
    """Write a kit to FILE, to be imported on a machine that cannot build it."""
    from packager import kit as kits

    kits.export(kits.ensure(name), file)
    console.result(f"wrote {file}")


@kit.command("import")
@click.argument("source", type=click.Path(dir_okay=False), metavar="FILE|oci://REFERENCE")
@access_options
def kit_import(source: str, **options: Any) -> None:
    """Import a kit into the cache, from a FILE of export or package, or from a registry.

    Only from a source you trust: a kit is a program.

    \b
    Examples:
      edgepack kit import kit.tar
      edgepack kit import oci://registry.example/team/kits:0.1.0
    """
    from packager.registry.kits import take

    imported = take(source, access(**options))
    console.result(f"imported {imported.facts.name}")
