"""The quality gate: try recipes, smallest first, and take the first that keeps the limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.bundle.quantization import TriedRecipe
from packager import console
from packager.errors import QualityError
from packager.profile import DeviceProfile
from packager.quantize import candidate
from packager.quantize.candidate import Candidate
from packager.quantize.subject import Subject
from packager.recipes.providers import refusal
from packager.recipes.recipes import AUTO, LADDER, RECIPES, Recipe, find
from packager.units import MEGA, megabytes


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the gate decided.

    Attributes:
        chosen: the model for the bundle.
        tried: all that were built, in that order, with what each exceeds.
        quality_loss_allowed: the chosen one exceeds limits, and the user allowed it.
    """

    chosen: Candidate
    tried: tuple[tuple[Candidate, tuple[str, ...]], ...]
    quality_loss_allowed: bool


def recipes(name: str, provider: str) -> list[Recipe]:
    """The recipes to try for `--recipe NAME`, in order.

    Raises:
        QuantizeError: there is no such recipe.
        QualityError: it cannot be built for this execution provider.
    """
    if name == AUTO:
        return [RECIPES[each] for each in (*LADDER, "fp16") if not refusal(RECIPES[each], provider)]
    recipe = find(name)
    wrong = refusal(recipe, provider)
    if wrong:
        raise QualityError(wrong, hint="`--recipe auto` chooses one that fits.")
    return [recipe]


def choose(
    subject: Subject, candidates: Sequence[Recipe | None], *, allow_quality_loss: bool
) -> Choice:
    """Build one recipe after the other until one keeps the profile's limits.

    Args:
        subject: model, device and text.
        candidates: recipes, smallest first; None stands for an ONNX model as it is.
        allow_quality_loss: take the best if none keeps the limits.

    Raises:
        QualityError: none does, and quality loss is not allowed; the message has the table.
    """
    tried: list[tuple[Candidate, tuple[str, ...]]] = []
    for recipe in candidates:
        made = candidate.make(subject, recipe)
        exceeded = exceeded_limits(subject.profile, made)
        tried.append((made, exceeded))
        console.note(_line(made, exceeded))
        if not exceeded:
            return Choice(chosen=made, tried=tuple(tried), quality_loss_allowed=False)
    if not allow_quality_loss:
        table = "\n".join(f"  {_line(*each)}" for each in tried)
        raise QualityError(
            f"no recipe keeps the limits of {subject.profile.name}:\n{table}",
            hint="Raise the limits in a profile of your own, take a larger or less damaged model, "
            "or accept the best with --allow-quality-loss.",
        )
    best = min((made for made, _ in tried), key=_loss)
    console.warn(f"{best.recipe} exceeds the limits; it is used all the same")
    return Choice(chosen=best, tried=tuple(tried), quality_loss_allowed=True)


def exceeded_limits(profile: DeviceProfile, made: Candidate) -> tuple[str, ...]:
    """The limits of a profile that a candidate does not keep, one phrase each."""
    limits, quality = profile.limits, made.quality
    found = []
    if quality is not None and limits.max_kl is not None and quality.kl > limits.max_kl:
        found.append(f"KL {quality.kl:.3f} > {limits.max_kl}")
    if quality is not None and limits.min_top1 is not None and quality.top1 < limits.min_top1:
        found.append(f"top-1 {quality.top1:.3f} < {limits.min_top1}")
    if limits.max_model_mb is not None and made.model_bytes > limits.max_model_mb * MEGA:
        found.append(f"{megabytes(made.model_bytes)} > {limits.max_model_mb} MB")
    if made.memory_bytes > profile.memory_budget_mb << 20:
        found.append(f"memory {made.memory_bytes >> 20} MiB > {profile.memory_budget_mb} MiB")
    return tuple(found)


def record(made: Candidate, exceeded: tuple[str, ...]) -> TriedRecipe:
    """A tried recipe as the manifest has it."""
    return TriedRecipe(
        recipe=made.recipe,
        model_bytes=made.model_bytes,
        memory_bytes=made.memory_bytes,
        quality=made.quality,
        exceeded=exceeded,
    )


def _loss(made: Candidate) -> float:
    return made.quality.kl if made.quality is not None else 0.0


def _line(made: Candidate, exceeded: tuple[str, ...]) -> str:
    quality = made.quality
    figures = (
        f"KL {quality.kl:.3f}  top-1 {quality.top1:.3f}  perplexity {quality.perplexity:.2f}"
        if quality is not None
        else "quality not measured"
    )
    verdict = "exceeds " + ", ".join(exceeded) if exceeded else "within the limits"
    return f"{made.recipe:<16} {megabytes(made.model_bytes):>10}  {figures}  {verdict}"
