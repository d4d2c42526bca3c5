"""Quantization that a model brings along: codes of a GGUF file, or a grid of its float weights.

Whether they can be kept, and the codes as a folder of quantized weights.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from device_runtime.bundle.quantization import SourceType
from packager import cache, console
from packager.errors import QuantizeError
from packager.jobs import keys
from packager.jobs.find_grid import FindGrid
from packager.jobs.harness import run_job
from packager.jobs.keep_gguf import KeepGguf
from packager.models import gguf
from packager.models.catalog import WITH_TEXT_MODEL
from packager.models.source import ModelSource
from packager.models.text_model import text_config
from packager.weights import gguf_codes

LEAST = 0.5
"""Smallest share of weights with codes to keep for which the recipe is worth building."""

LEAST_ON_GRID = 0.99
"""Smallest share of blocks on a grid for which a model was trained for it, or quantized before."""

_read = functools.cache(gguf.read)


def types(source: ModelSource) -> tuple[SourceType, ...]:
    """List the tensor types of a GGUF file's matrices, most weights first."""
    by_type = sorted(_read(source.path).types.items(), key=lambda item: -item[1])
    return tuple(
        SourceType(type=name, weights=count, kept=name in gguf_codes.KEPT)
        for name, count in by_type
    )


def refusal(source: ModelSource | None) -> str:
    """Return why the codes of a source cannot be kept; empty if they can."""
    if source is None or source.kind != "gguf":
        return "only a GGUF file has codes to keep, and the model is not one"
    listed = types(source)
    kept = sum(entry.weights for entry in listed if entry.kept)
    if kept >= LEAST * sum(entry.weights for entry in listed):
        return ""
    return (
        f"the codes of {source.name} cannot be kept: {describe(listed, kept=False)} of its weights "
        "have none, or none that fit"
    )


def grid_refusal(source: ModelSource | None, block_size: int) -> str:
    """Return why a source's weights have no grid to keep; empty if they lie on one.

    Args:
        source: the model; None if it is not known yet.
        block_size: inputs that share a scale.
    """
    if source is None or source.kind != "hf" or source.quantization:
        return "only float weights can lie on a grid, and the model has none"
    job = FindGrid(
        folder=source.path,
        block_size=block_size,
        with_others=source.architecture in WITH_TEXT_MODEL,
    )

    def make(target: Path) -> None:
        share = run_job(
            job,
            what=f"Looking at the weights of {source.name}",
            error=QuantizeError,
            hint="Download the model again.",
        )
        (target / "share.json").write_text(json.dumps(share))

    stage = cache.stage("grid", keys.inputs(job, content={source.path: source.digest}), make)
    share = float(json.loads((stage / "share.json").read_text()))
    if share >= LEAST_ON_GRID:
        return ""
    return f"{100 * share:.0f} % of the weights of {source.name} lie on a grid of 4 bits"


def summary(listed: tuple[SourceType, ...]) -> str:
    """Say which types were kept and which were not, with their shares of the weights."""
    again = describe(listed, kept=False)
    return describe(listed, kept=True) + " kept" + (f"; {again} rounded again" if again else "")


def describe(listed: tuple[SourceType, ...], *, kept: bool) -> str:
    """List the types that are kept, or those that are not, with their shares; empty if none."""
    total = sum(entry.weights for entry in listed)
    return ", ".join(
        f"{entry.type} {100 * entry.weights / total:.1f} %"
        for entry in listed
        if entry.kept is kept
    )


def folder(source: ModelSource, converted: Path, ready: Callable[[], None]) -> Path:
    """Return the folder of a file's codes, in the layout of `stored`.

    Args:
        source: the GGUF file.
        converted: the same model as a Hugging Face folder.
        ready: called before any work whose result is not in the cache.

    Raises:
        QuantizeError: the codes are not those of the converted weights.
    """
    job = KeepGguf(file=source.path, folder=converted, architecture=_read(source.path).architecture)
    inputs = keys.inputs(job, content={source.path: source.digest})
    layers = int(text_config(converted)["num_hidden_layers"])

    def make(target: Path) -> None:
        ready()
        with console.progress("Reading codes", layers, "layers") as advance:
            run_job(
                job,
                target,
                what="Reading the codes of the GGUF file",
                error=QuantizeError,
                hint="Try another recipe, for instance int4-gptq.",
                advance=advance,
            )

    console.note(f"weights of the file: {summary(types(source))}")
    with console.step("Reading the codes of the GGUF file"):
        return cache.stage("codes", inputs, make)
