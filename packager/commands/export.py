"""The command `export`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import as_json


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--ort-package",
    "output",
    type=click.Path(path_type=Path),
    metavar="OUT.ortpackage",
    required=True,
    help="Write a model package of ONNX Runtime, a folder.",
)
@as_json
def export(model: Path, output: Path, as_json: bool) -> None:
    """Write the model of a bundle, or an ONNX GenAI folder, for other programs.

    A model package has a variant for the CPU and, of a bundle with a second graph for GPUs, one for
    WebGPU; both share weights and tokenizer.

    \b
    Examples:
      edgepack export BUNDLE.epk --ort-package model.ortpackage
    """
    from packager import export as exporter
    from packager.report import tables

    exported = exporter.ort_package_of(model, output)
    if as_json:
        console.result_json(tables.export_json(exported))
    else:
        tables.export_text(exported)
