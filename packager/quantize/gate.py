"""The quality gate: try recipes, smallest first; take the first that is within the limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.bundle.quantization import TriedRecipe
from packager import console
from packager.errors import QualityError
from packager.models.catalog import MeasuredLoss
from packager.profile import DeviceProfile
from packager.quantize import candidate
from packager.quantize.candidate import BLOCK_SIZE, Candidate
from packager.quantize.subject import Subject
from packager.recipes.providers import PASS_PROVIDERS, refusal
from packager.recipes.recipes import AUTO, LADDER, RECIPES, Recipe, find
from packager.units import MEGA, megabytes

MARGIN = 1.1
"""Factor by which a known KL divergence must exceed the limit for its recipe to be skipped:
processors and accuracy levels change the figure by a few percent."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Decision of the gate.

    Attributes:
        chosen: the model for the bundle.
        tried: all candidates that were built, in that order, with the limits that each exceeds.
        quality_loss_allowed: the chosen model exceeds limits, and the user allowed it.
    """

    chosen: Candidate
    tried: tuple[tuple[Candidate, tuple[str, ...]], ...]
    quality_loss_allowed: bool


def recipes(name: str, provider: str) -> list[Recipe]:
    """Return the recipes to try for `--recipe NAME`, in order.

    Raises:
        QuantizeError: there is no such recipe.
        QualityError: the recipe cannot be built for this execution provider.
    """
    if name == AUTO:
        ladder = [RECIPES[step] for step in (*LADDER, "fp16")]
        return [recipe for recipe in ladder if not refusal(recipe, provider)]
    recipe = find(name)
    reason = refusal(recipe, provider)
    if reason:
        raise QualityError(reason, hint="`--recipe auto` chooses one that fits.")
    return [recipe]


def without_known_failures(
    candidates: Sequence[Recipe], measured: MeasuredLoss, profile: DeviceProfile
) -> list[Recipe]:
    """Leave out the recipes that are known to exceed a profile's limit of the KL divergence.

    Args:
        candidates: recipes, smallest first. The last one always stays: something must be built, and
            measured here.
        measured: results of recipes on the model, with the texts that this build uses.
        profile: the device.
    """
    limit = profile.limits.max_kl
    block_size = profile.quantization.get("block_size", BLOCK_SIZE)
    comparable = block_size == measured.block_size and profile.execution_provider in PASS_PROVIDERS
    if limit is None or not comparable:
        return list(candidates)
    skipped = {
        recipe.name: measured.kl[recipe.name]
        for recipe in candidates[:-1]
        if measured.kl.get(recipe.name, 0.0) > MARGIN * limit
    }
    if skipped:
        losses = ", ".join(f"{name} ({kl:.3f})" for name, kl in skipped.items())
        console.note(f"skipping {losses}: KL known for this model, limit {limit}")
    return [recipe for recipe in candidates if recipe.name not in skipped]


def choose(
    subject: Subject, candidates: Sequence[Recipe | None], *, allow_quality_loss: bool
) -> Choice:
    """Build one recipe after the other until one is within the profile's limits.

    Args:
        subject: model, device and text.
        candidates: recipes, smallest first; None stands for an ONNX model as it is.
        allow_quality_loss: take the best if none is within the limits.

    Raises:
        QualityError: none is, and quality loss is not allowed; the message has the table.
    """
    tried: list[tuple[Candidate, tuple[str, ...]]] = []
    for recipe in candidates:
        model = candidate.make(subject, recipe)
        exceeded = exceeded_limits(subject.profile, model)
        tried.append((model, exceeded))
        console.note(_line(model, exceeded))
        if not exceeded:
            return Choice(chosen=model, tried=tuple(tried), quality_loss_allowed=False)
    if not allow_quality_loss:
        table = "\n".join(f"  {_line(model, exceeded)}" for model, exceeded in tried)
        raise QualityError(
            f"no recipe keeps the limits of {subject.profile.name}:\n{table}",
            hint="Raise the limits in a profile of your own, take a larger or less damaged model, "
            "or accept the best with --allow-quality-loss.",
        )
    best = min((model for model, _ in tried), key=_loss)
    console.warn(f"using {best.recipe} although it exceeds the limits")
    return Choice(chosen=best, tried=tuple(tried), quality_loss_allowed=True)


def exceeded_limits(profile: DeviceProfile, model: Candidate) -> tuple[str, ...]:
    """List the limits of a profile that a candidate exceeds, one phrase each."""
    limits, quality = profile.limits, model.quality
    phrases = []
    if quality is not None and limits.max_kl is not None and quality.kl > limits.max_kl:
        phrases.append(f"KL {quality.kl:.3f} > {limits.max_kl}")
    if quality is not None and limits.min_top1 is not None and quality.top1 < limits.min_top1:
        phrases.append(f"top-1 {quality.top1:.3f} < {limits.min_top1}")
    return (*phrases, *exceeded_sizes(profile, model.model_bytes, model.memory_bytes))


def exceeded_sizes(profile: DeviceProfile, model_bytes: int, memory_bytes: int) -> tuple[str, ...]:
    """List the limits of a profile that a model's size and memory exceed, one phrase each."""
    limit, phrases = profile.limits.max_model_mb, []
    if limit is not None and model_bytes > limit * MEGA:
        phrases.append(f"{megabytes(model_bytes)} > {limit} MB")
    if memory_bytes > profile.memory_budget_mb << 20:
        phrases.append(f"memory {memory_bytes >> 20} MiB > {profile.memory_budget_mb} MiB")
    return tuple(phrases)


def record(model: Candidate, exceeded: tuple[str, ...]) -> TriedRecipe:
    """Describe a tried recipe for the manifest."""
    return TriedRecipe(
        recipe=model.recipe,
        model_bytes=model.model_bytes,
        memory_bytes=model.memory_bytes,
        quality=model.quality,
        exceeded=exceeded,
    )


def _loss(model: Candidate) -> float:
    return model.quality.kl if model.quality is not None else 0.0


def _line(model: Candidate, exceeded: tuple[str, ...]) -> str:
    quality = model.quality
    figures = (
        f"KL {quality.kl:.3f}  top-1 {quality.top1:.3f}  perplexity {quality.perplexity:.2f}"
        if quality is not None
        else "quality not measured"
    )
    verdict = "exceeds " + ", ".join(exceeded) if exceeded else "within the limits"
    return f"{model.recipe:<16} {megabytes(model.model_bytes):>10}  {figures}  {verdict}"
