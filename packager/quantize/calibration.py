"""What a recipe needs to know of a model before its weights are quantized: calibrated codes, and
which layers are sensitive."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager import cache, console
from packager.child import run_module
from packager.errors import QuantizeError
from packager.recipes.recipes import Recipe, usually_sensitive
from packager.weights import stored

if TYPE_CHECKING:
    from packager.quantize.candidate import Subject


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What there is before weights are quantized.

    Attributes:
        folder: that `calibrate` filled; None without calibration.
        sensitive: `LAYER.NAME` of the layers that get 8 bits.
        layers: errors of the linear layers, fields as `report_page.LayerError` has them.
    """

    folder: Path | None = None
    sensitive: tuple[str, ...] = ()
    layers: list[dict[str, Any]] = field(default_factory=list)


def prepare(subject: Subject, recipe: Recipe, source: Path, block_size: int) -> Prepared:
    """Calibrate, if the recipe wants it, and choose the sensitive layers.

    Args:
        subject: model, device and text.
        recipe: what is wanted.
        source: the model as a Hugging Face folder.
        block_size: inputs that share a scale.
    """
    layers = int(json.loads((source / "config.json").read_text())["num_hidden_layers"])
    if not recipe.calibrated:
        return Prepared(sensitive=usually_sensitive(layers) if recipe.sensitive else ())
    folder = _calibrated(subject, source, layers, block_size)
    errors = stored.errors(folder)
    sensitive: tuple[str, ...] = ()
    if recipe.sensitive:
        assert not isinstance(recipe.sensitive, str)
        sensitive = most_sensitive(errors, _costs(subject, source, folder), recipe.sensitive)
    found = [
        {
            "layer": error.layer,
            "name": error.name,
            "relative": error.relative,
            "sensitive": f"{error.layer}.{error.name}" in sensitive,
        }
        for error in errors
    ]
    return Prepared(folder=folder, sensitive=sensitive, layers=found)


def most_sensitive(
    errors: list[stored.LinearError], costs: Mapping[tuple[int, str], float], share: float
) -> tuple[str, ...]:
    """The linear layers that cost the model most, for the bytes that 8 bits would take.

    Args:
        errors: of each linear layer after calibration.
        costs: of each linear layer, by layer and name, as `sensitivity` measures them.
        share: part of all their weights to choose.
    """
    budget = share * sum(error.parameters for error in errors)
    groups: dict[tuple[int, str], list[stored.LinearError]] = defaultdict(list)
    for error in errors:
        # One node of the graph holds query, key and value: they go together.
        joined = error.name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj")
        groups[error.layer, "qkv" if joined else error.name].append(error)

    def gain(members: list[stored.LinearError]) -> float:
        cost = sum(costs[error.layer, error.name] for error in members)
        return cost / sum(error.parameters for error in members)

    chosen: list[str] = []
    for members in sorted(groups.values(), key=gain, reverse=True):
        size = sum(error.parameters for error in members)
        if size <= budget:
            budget -= size
            chosen += [f"{error.layer}.{error.name}" for error in members]
    return tuple(sorted(chosen))


def _costs(subject: Subject, source: Path, calibrated: Path) -> dict[tuple[int, str], float]:
    inputs = {
        "source": subject.source.digest,
        "calibrated": calibrated.name,
        "child": cache.file_digest(Path(__file__).parent / "../jobs/sensitivity.py"),
    }

    def make(target: Path) -> None:
        with console.progress("Differentiating", 4, "windows") as advance:
            run_module(
                "packager.jobs.sensitivity",
                [source, subject.calibration(), calibrated, target / "costs.json"],
                what="Finding the sensitive layers",
                error=QuantizeError,
                hint="Try a recipe that does not look for them, for instance int4-gptq.",
                on_line=lambda line: advance(1) if line.startswith("Window ") else None,
            )

    with console.step("Finding the sensitive layers"):
        folder = cache.stage("sensitivity", inputs, make)
    listed = json.loads((folder / "costs.json").read_text())
    return {(one["layer"], one["name"]): one["cost"] for one in listed}


def _calibrated(subject: Subject, source: Path, layers: int, block_size: int) -> Path:
    """Run GPTQ, or take what it left; goes on where an interrupted run stopped."""
    windows = subject.calibration()
    inputs = {
        "source": subject.source.digest,
        "calibration": cache.file_digest(windows),
        "block_size": block_size,
        "gptq": [
            cache.file_digest(Path(__file__).parent / name)
            for name in ("../jobs/calibrate.py", "gptq_solve.py", "layers.py", "blocks.py")
        ],
    }

    def make(target: Path) -> None:
        # Layers that are done stay when the work is interrupted.
        unfinished = cache.root() / "unfinished" / cache.key(inputs)
        unfinished.mkdir(parents=True, exist_ok=True)
        done = len(list(unfinished.glob("layer-*")))
        if done:
            console.note(f"going on at layer {done + 1} of {layers}")
        with console.progress("Calibrating", layers, "layers") as advance:
            run_module(
                "packager.jobs.calibrate",
                [source, windows, unfinished, str(block_size)],
                what="Calibrating (GPTQ)",
                error=QuantizeError,
                hint="Try a recipe without calibration, for instance int4-kquant.",
                on_line=lambda line: advance(1) if line.startswith("Layer ") else None,
            )
        for path in unfinished.iterdir():
            path.rename(target / path.name)
        shutil.rmtree(unfinished)

    with console.step("Calibrating (GPTQ)"):
        return cache.stage("gptq", inputs, make)
