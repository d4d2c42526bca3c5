"""Preparation of a quantization: calibrated codes, and the choice of sensitive layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from packager import cache, console
from packager.errors import QuantizeError
from packager.evaluation import texts
from packager.jobs import keys
from packager.jobs.calibrate import Calibrate
from packager.jobs.harness import run_job
from packager.jobs.sensitivity import Cost, Differentiate
from packager.models.text_model import text_config
from packager.quantize import kept
from packager.quantize.subject import Subject
from packager.recipes.recipes import KEEP, Recipe, usually_sensitive
from packager.schedule import Stages
from packager.weights import stored


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Inputs of a quantization.

    Attributes:
        folder: quantized weights, output of `calibrate` or `keep_gguf`; None without either.
        sensitive: linear layers that get 8 bits, as `LAYER.NAME`; `lm_head` is the head.
        layers: errors of the linear layers, with the fields of `page.LayerError`.
    """

    folder: Path | None = None
    sensitive: tuple[str, ...] = ()
    layers: list[dict[str, Any]] = field(default_factory=list)


def prepare(subject: Subject, recipe: Recipe, source: Path, ready: Callable[[], None]) -> Prepared:
    """Calibrate, if the recipe requires it, and choose the sensitive layers.

    Args:
        subject: model, device and text.
        recipe: recipe to prepare for.
        source: the model as a Hugging Face folder.
        ready: called before any work whose result is not in the cache.
    """
    if recipe.name == KEEP:
        return Prepared(folder=kept.folder(subject.source, source, ready))
    layers = int(text_config(source)["num_hidden_layers"])
    if not recipe.calibrated:
        return Prepared(sensitive=usually_sensitive(layers) if recipe.sensitive else ())
    folder = _calibrated(subject, source, layers, ready)
    errors = stored.errors(folder)
    sensitive: tuple[str, ...] = ()
    if recipe.sensitive:
        assert not isinstance(recipe.sensitive, str)
        sensitive = most_sensitive(
            errors, _costs(subject, source, layers, folder, ready), recipe.sensitive
        )
    layer_errors = [
        {
            "layer": error.layer,
            "name": error.name,
            "relative": error.relative,
            "sensitive": stored.place(error.layer, error.name) in sensitive,
        }
        for error in errors
        if error.layer >= 0
    ]
    return Prepared(folder=folder, sensitive=sensitive, layers=layer_errors)


def most_sensitive(
    errors: list[stored.LinearError], costs: Mapping[tuple[int, str], float], share: float
) -> tuple[str, ...]:
    """Choose the linear layers to keep at 8 bits: those with the highest cost per weight.

    The head can be larger than all that fits beside it, so the best choices with and without it are
    compared.

    Args:
        errors: errors of each linear layer and the head after calibration.
        costs: cost of each, by layer and name, as `sensitivity` measures it.
        share: fraction of all weights to choose, at most.

    Returns:
        Their names, `LAYER.NAME`, or `lm_head`.
    """
    budget = share * sum(error.parameters for error in errors)
    head = [error for error in errors if error.layer < 0]
    layers = [error for error in errors if error.layer >= 0]

    def cost(error: stored.LinearError) -> float:
        return costs[error.layer, error.name]

    def filled(chosen: list[stored.LinearError]) -> list[stored.LinearError]:
        left = budget - sum(error.parameters for error in chosen)
        for error in sorted(layers, key=lambda each: cost(each) / each.parameters, reverse=True):
            if error.parameters <= left:
                left -= error.parameters
                chosen = [*chosen, error]
        return chosen

    choices = [
        filled(first) for first in ([], head) if sum(error.parameters for error in first) <= budget
    ]
    best = max(choices, key=lambda chosen: sum(map(cost, chosen)))
    return tuple(sorted(stored.place(error.layer, error.name) for error in best))


def _costs(
    subject: Subject, source: Path, layers: int, calibrated: Path, ready: Callable[[], None]
) -> dict[tuple[int, str], float]:
    windows = subject.calibration()
    job = Differentiate(
        source=source,
        windows=windows,
        calibrated=calibrated,
        bfloat16=texts.calibrated_in_bfloat16(subject.source),
    )
    inputs = keys.inputs(job, content={**subject.content, windows: cache.file_digest(windows)})

    def make(target: Path) -> None:
        ready()
        with console.progress("Differentiating", 2 * layers, "layers") as advance:
            costs = run_job(
                job,
                cache.unfinished(inputs),
                what="Finding the sensitive layers",
                error=QuantizeError,
                hint="Try a recipe that does not need them, for instance int4-gptq.",
                advance=advance,
            )
        (target / "costs.json").write_bytes(msgspec.json.encode(costs))

    with console.step("Finding the sensitive layers"), console.stage(Stages.SENSITIVITY):
        folder = cache.stage("sensitivity", inputs, make)
    listed = msgspec.json.decode((folder / "costs.json").read_bytes(), type=list[Cost])
    return {(cost.layer, cost.name): cost.cost for cost in listed}


def _calibrated(subject: Subject, source: Path, layers: int, ready: Callable[[], None]) -> Path:
    """Run GPTQ, resuming an interrupted run, or take its result from the cache."""
    windows = subject.calibration()
    job = Calibrate(
        source=source,
        windows=windows,
        block_size=subject.profile.block_size,
        bfloat16=texts.calibrated_in_bfloat16(subject.source),
    )
    # Keyed by content: the path of the windows depends on the evaluation text, the windows do not.
    inputs = keys.inputs(job, content={**subject.content, windows: cache.file_digest(windows)})

    def make(target: Path) -> None:
        ready()
        folder = cache.unfinished(inputs)
        with console.progress("Calibrating", layers, "layers") as advance:
            run_job(
                job,
                folder,
                what="Calibrating (GPTQ)",
                error=QuantizeError,
                hint="Try a recipe without calibration, for instance int4-kquant.",
                advance=advance,
            )
        for path in stored.files(folder):
            (target / path.name).hardlink_to(path)

    with console.step("Calibrating (GPTQ)"), console.stage(Stages.CALIBRATION):
        return cache.stage("gptq", inputs, make)
