"""Quantize a model for a profile: prepare the text, try recipes, choose one."""

import functools
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.quantization import QuantizationFacts
from packager import console, machine, plan
from packager.evaluation import evaluate, tasks, texts
from packager.models.catalog import measured_loss
from packager.models.source import ModelSource
from packager.profile import DeviceProfile
from packager.quantize import build_time, candidate, gate, kept
from packager.quantize.gate import Choice
from packager.quantize.sight import Sight
from packager.quantize.subject import Subject
from packager.recipes.recipes import KEEP, Recipe


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest:
    """A model to quantize, and how.

    Attributes:
        source: the reference model.
        profile: the device.
        output: path of the bundle.
        recipe: name of a recipe, or `auto`.
        eval_text: text file to measure on; None for text that the model writes itself.
        calibration_text: text file to calibrate with; None likewise.
        allow_quality_loss: take the best recipe if none is within the profile's limits.
        trust_remote_code: run Python code that comes with the model.
        sight: measures the model on pictures; None for one that is built as a text model.
    """

    source: ModelSource
    profile: DeviceProfile
    output: Path
    recipe: str
    eval_text: Path | None = None
    calibration_text: Path | None = None
    allow_quality_loss: bool = False
    trust_remote_code: bool = False
    sight: Sight | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """The model for a bundle.

    Attributes:
        choice: the chosen candidate, and all that were tried.
        facts: description of the quantization for the manifest.
    """

    choice: Choice
    facts: QuantizationFacts


def quantize(request: QuantizeRequest) -> QuantizedModel:
    """Build the model for a profile, or take an ONNX model as it is; prove that it runs.

    Raises:
        QuantizeError: there is no such recipe, the model cannot be built, its graph does not match
            the recipe, or it does not load or generate.
        QualityError: no recipe is within the profile's limits.
        EvaluationError: a text cannot be used.
        ResourceError: this machine lacks memory or disk space.
    """
    source, profile = request.source, request.profile
    prepare_text = functools.partial(
        texts.prepare,
        source,
        eval_text=request.eval_text,
        calibration_text=request.calibration_text,
        trust_remote_code=request.trust_remote_code,
    )
    text = None
    recipes: list[Recipe | None] = [None]
    if source.kind != "onnx":
        ladder = candidates(request)
        needs = [candidate.need(source, profile, recipe) for recipe in ladder]
        with console.step("Running the reference model"):
            plan.announce([texts.need(source), *needs])
            # Before a larger one than the smallest is built, its size is checked as well.
            plan.check_output(min(need.bundle for need in needs), request.output)
            expected = build_time.stages(
                source,
                ladder,
                machine.pace(),
                eval_text=request.eval_text,
                calibration_text=request.calibration_text,
            )
            build_time.announce(expected, ladder)
            console.expect(expected)
            # Defects of the user's own text are reported now; calibration text, which takes the
            # model longest to write, waits for a recipe that needs it.
            text = prepare_text(calibrate=request.calibration_text is not None, ahead=needs[0])
        recipes = [*ladder]
    subject = Subject(
        source=source,
        profile=profile,
        output=request.output,
        text=text,
        calibration=functools.cache(lambda: prepare_text(calibrate=True) / "calibration.npy"),
        trust_remote_code=request.trust_remote_code,
    )
    choice = gate.choose(
        subject,
        recipes,
        allow_quality_loss=request.allow_quality_loss,
        on_pictures=request.sight.exceeded if request.sight is not None else None,
    )
    chosen = choice.chosen
    facts = QuantizationFacts(
        recipe=chosen.recipe,
        precision=chosen.precision,
        execution_provider=profile.execution_provider.lower(),
        options={name: str(value) for name, value in sorted(profile.quantization.items())},
        operators=chosen.graph.operators,
        answers=evaluate.shown(chosen.answers),
        tasks=tasks.values(chosen.answers),
        quality=chosen.quality,
        tried=tuple(gate.record(model, verdict) for model, verdict in choice.tried),
        quality_loss_allowed=choice.quality_loss_allowed,
        source_types=kept.types(source) if chosen.recipe == KEEP else (),
    )
    return QuantizedModel(choice=choice, facts=facts)


def candidates(request: QuantizeRequest) -> list[Recipe]:
    """Return the recipes to try; those that are known to fail are left out.

    What is known holds for the texts that the model writes itself, and for no others.
    """
    recipes = gate.recipes(request.recipe, request.profile, request.source)
    measured = measured_loss(request.source.digest)
    if measured is None or request.eval_text is not None or request.calibration_text is not None:
        return recipes
    return gate.without_known_failures(
        recipes, measured, request.profile, request.source.parameters
    )
