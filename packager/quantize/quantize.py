"""Quantize a model for a profile: prepare the text, try recipes, choose one."""

import functools
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.quantization import QuantizationFacts
from packager import console, plan
from packager.evaluation import texts
from packager.models.source import ModelSource
from packager.profile import DeviceProfile
from packager.quantize import candidate, gate
from packager.quantize.gate import Choice
from packager.quantize.subject import Subject
from packager.recipes.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest:
    """What to quantize, and how.

    Attributes:
        source: the original model.
        profile: the device.
        recipe: name of a recipe, or `auto`.
        eval_text: text file to measure on; None for text that the model itself wrote.
        calibration_text: text file to calibrate with; None likewise.
        allow_quality_loss: take the best recipe if none keeps the profile's limits.
        trust_remote_code: run Python code that comes with the model.
    """

    source: ModelSource
    profile: DeviceProfile
    recipe: str
    eval_text: Path | None = None
    calibration_text: Path | None = None
    allow_quality_loss: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """The model for a bundle.

    Attributes:
        choice: what was built and tried.
        facts: for the manifest.
    """

    choice: Choice
    facts: QuantizationFacts


def quantize(request: QuantizeRequest) -> QuantizedModel:
    """Build the model for a profile, or take an ONNX model as it is; prove that it runs.

    Raises:
        QuantizeError: it cannot be built, its graph is not what was asked for, or it does not
            load or generate.
        QualityError: no recipe keeps the profile's limits.
        EvaluationError: a text cannot be used.
    """
    source, profile = request.source, request.profile
    prepare = functools.partial(
        texts.prepare,
        source,
        eval_text=request.eval_text,
        calibration_text=request.calibration_text,
        trust_remote_code=request.trust_remote_code,
    )
    text = None
    recipes: list[Recipe | None] = [None]
    if source.kind != "onnx":
        candidates = gate.recipes(request.recipe, profile.execution_provider)
        needs = [candidate.need(source, profile, recipe) for recipe in candidates]
        with console.step("Asking the original model"):
            plan.announce([texts.need(source), *needs])
            # What is wrong with the user's own text is said now; the model writes text to calibrate
            # with, which takes longest, only when a recipe comes that needs it.
            text = prepare(calibrate=request.calibration_text is not None, ahead=needs[0])
        recipes = [*candidates]
    subject = Subject(
        source=source,
        profile=profile,
        text=text,
        calibration=functools.cache(lambda: prepare(calibrate=True) / "calibration.npy"),
        trust_remote_code=request.trust_remote_code,
    )
    choice = gate.choose(subject, recipes, allow_quality_loss=request.allow_quality_loss)
    chosen = choice.chosen
    facts = QuantizationFacts(
        recipe=chosen.recipe,
        precision=chosen.precision,
        execution_provider=chosen.graph.execution_provider,
        options={name: str(value) for name, value in sorted(profile.quantization.items())},
        operators=chosen.graph.operators,
        answers=chosen.answers,
        quality=chosen.quality,
        tried=tuple(gate.record(*each) for each in choice.tried),
        quality_loss_allowed=choice.quality_loss_allowed,
    )
    return QuantizedModel(choice=choice, facts=facts)
