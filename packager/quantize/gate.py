"""The quality gate: try recipes, smallest first; take the first that is within the limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from device_runtime.bundle.quantization import Quality, TriedRecipe
from packager import console, units
from packager.errors import QualityError
from packager.models.catalog import MeasuredLoss
from packager.models.source import ModelSource
from packager.profile import DeviceProfile, Limits
from packager.quantize import candidate, kept
from packager.quantize.candidate import Candidate
from packager.quantize.subject import Subject
from packager.recipes.providers import PASS_PROVIDERS, refusal
from packager.recipes.recipes import AUTO, KEEP, LADDER, OWN_GRID, RECIPES, Recipe, find
from packager.units import MEGA, megabytes

GRACE = 1.25
"""Factor by which the KL divergence may exceed its limit if both models agree on all tasks. It is
not known much better: on the default model, its confidence interval ends 16 % above it."""

FEWEST = 10
"""Tasks that must be compared for their result to count; base models answer few."""

MARGIN = 1.1
"""Factor by which a known KL divergence must exceed what may pass for its recipe to be skipped:
processors and accuracy levels change the figure by a few percent."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Comparison of a candidate with the limits of a profile, one phrase for each limit.

    Attributes:
        exceeded: limits that the candidate exceeds; empty if it passed.
        excused: limits that it exceeds and that do not count.
    """

    exceeded: tuple[str, ...]
    excused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Decision of the gate.

    Attributes:
        chosen: the model for the bundle.
        tried: all candidates that were built, in that order, with the verdict on each.
        quality_loss_allowed: the chosen model exceeds limits, and the user allowed it.
    """

    chosen: Candidate
    tried: tuple[tuple[Candidate, Verdict], ...]
    quality_loss_allowed: bool


def recipes(name: str, profile: DeviceProfile, source: ModelSource | None = None) -> list[Recipe]:
    """Return the recipes to try for `--recipe NAME`, in order.

    Args:
        name: name of a recipe, or `auto`.
        profile: the device.
        source: the model; None if it is not known yet.

    Raises:
        QuantizeError: no such recipe, or the weights cannot be read.
        QualityError: the recipe cannot be built for this execution provider, or of this model.
    """

    def unfit(recipe: Recipe) -> str:
        reason = refusal(recipe, profile.execution_provider)
        if not reason and recipe.name == KEEP:
            return kept.refusal(source)
        if not reason and recipe.name == OWN_GRID:
            return kept.grid_refusal(source, profile.block_size)
        return reason

    if name == AUTO:
        ladder = [RECIPES[step] for step in (*LADDER, "fp16")]
        return [recipe for recipe in ladder if not unfit(recipe)]
    recipe = find(name)
    reason = unfit(recipe)
    if reason:
        raise QualityError(reason, hint="`--recipe auto` chooses one that fits.")
    return [recipe]


def without_known_failures(
    candidates: Sequence[Recipe], measured: MeasuredLoss, profile: DeviceProfile, parameters: int
) -> list[Recipe]:
    """Leave out the recipes that are known to exceed a profile's limit of the KL divergence.

    Args:
        candidates: recipes, smallest first. The last one always stays: something must be built, and
            measured here.
        measured: results of recipes on the model, with the texts that this build uses.
        profile: the device.
        parameters: number of the model's weights.
    """
    limit = profile.limits.kl(parameters)
    comparable = (
        profile.block_size == measured.block_size and profile.execution_provider in PASS_PROVIDERS
    )
    if limit is None or not comparable:
        return list(candidates)
    skipped = {
        recipe.name: measured.kl[recipe.name]
        for recipe in candidates[:-1]
        if measured.kl.get(recipe.name, 0.0) > MARGIN * GRACE * limit
    }
    if skipped:
        losses = ", ".join(f"{name} ({kl:.3f})" for name, kl in skipped.items())
        console.note(
            f"skipping {losses}: KL known for this model, "
            f"limit {limit_text(profile.limits, parameters)}"
        )
    return [recipe for recipe in candidates if recipe.name not in skipped]


def choose(
    subject: Subject,
    candidates: Sequence[Recipe | None],
    *,
    allow_quality_loss: bool,
    on_pictures: Callable[[Candidate], Sequence[str]] | None = None,
) -> Choice:
    """Build one recipe after the other until one is within the profile's limits.

    Args:
        subject: model, device and text.
        candidates: recipes, smallest first; None stands for an ONNX model as it is.
        allow_quality_loss: take the best if none is within the limits.
        on_pictures: lists the limits that a candidate exceeds on pictures; None for a model that
            takes text alone.

    Raises:
        QualityError: none is, and quality loss is not allowed; the message has the table.
    """
    tried: list[tuple[Candidate, Verdict]] = []
    limit = subject.profile.limits.kl(subject.source.parameters)
    most = None if limit is None or allow_quality_loss else GRACE * limit
    for recipe in candidates:
        model = candidate.make(subject, recipe, most)
        verdict = judge(model, subject.profile, subject.source.parameters)
        if on_pictures is not None and not verdict.exceeded:
            phrases = tuple(f"on pictures {phrase}" for phrase in on_pictures(model))
            verdict = replace(verdict, exceeded=phrases)
        tried.append((model, verdict))
        console.note(describe(model, verdict))
        if not verdict.exceeded:
            console.skip_rest()
            return Choice(chosen=model, tried=tuple(tried), quality_loss_allowed=False)
    if not allow_quality_loss:
        table = "\n".join(f"  {describe(model, verdict)}" for model, verdict in tried)
        raise QualityError(
            f"no recipe keeps the limits of {subject.profile.name}:\n{table}",
            hint="Raise the limits in a profile of your own, take a larger or less damaged model, "
            f"{'leave the vision part out (--text-only), ' if on_pictures is not None else ''}"
            "or accept the best with --allow-quality-loss.",
        )
    best = min((model for model, _ in tried), key=_loss)
    console.warn(f"using {best.recipe} although it exceeds the limits")
    return Choice(chosen=best, tried=tuple(tried), quality_loss_allowed=True)


def exceeded_sizes(profile: DeviceProfile, model_bytes: int, memory_bytes: int) -> tuple[str, ...]:
    """List the limits of a profile that a model's size and memory exceed, one phrase each."""
    limit, phrases = profile.limits.max_model_mb, []
    if limit is not None and model_bytes > limit * MEGA:
        phrases.append(f"{megabytes(model_bytes)} > {limit} MB")
    if memory_bytes > profile.memory_budget_mb << 20:
        phrases.append(f"memory {memory_bytes >> 20} MiB > {profile.memory_budget_mb} MiB")
    return tuple(phrases)


def judge(model: Candidate, profile: DeviceProfile, parameters: int) -> Verdict:
    """Compare a candidate with the limits of a profile.

    Args:
        model: the candidate.
        profile: the device.
        parameters: number of the model's weights.
    """
    limits = profile.limits
    exceeded, excused = quality_verdict(model.quality, limits, parameters)
    exceeded += exceeded_sizes(profile, model.model_bytes, model.memory_bytes)
    return Verdict(exceeded=tuple(exceeded), excused=tuple(excused))


def quality_verdict(
    quality: Quality | None, limits: Limits, parameters: int
) -> tuple[list[str], list[str]]:
    """Return the limits of quality that are exceeded, and those that are exceeded and excused."""
    exceeded: list[str] = []
    excused: list[str] = []
    if quality is None:
        return exceeded, excused
    tasks = quality.tasks if quality.tasks and quality.tasks.compared >= FEWEST else None
    max_kl = limits.kl(parameters)
    if max_kl is not None and quality.kl > max_kl:
        phrase = f"KL {quality.kl:.3f} > {limit_text(limits, parameters)}"
        if tasks and tasks.agreed == tasks.compared and quality.kl <= GRACE * max_kl:
            excused.append(f"{phrase}, but all {tasks.compared} tasks agree")
        else:
            exceeded.append(phrase)
    tail, max_tail = quality.kl_tail, limits.max_kl_tail
    if tail is not None and max_tail is not None and tail > max_tail:
        exceeded.append(f"KL of 99.9 % of the tokens {tail:.2f} > {max_tail}")
    if limits.min_top1 is not None and quality.top1 < limits.min_top1:
        exceeded.append(f"top-1 {quality.top1:.3f} < {limits.min_top1}")
    least = limits.min_agreement
    if tasks and least is not None and tasks.agreed / tasks.compared < least:
        exceeded.append(f"tasks {tasks.agreed}/{tasks.compared} < {least}")
    return exceeded, excused


def limit_text(limits: Limits, parameters: int) -> str:
    """Describe the limit of the KL divergence for a model, and why it applies."""
    limit = f"{limits.kl(parameters)}"
    by_size = isinstance(limits.max_kl, dict)
    return f"{limit} for {units.parameters(parameters)} parameters" if by_size else limit


def record(model: Candidate, verdict: Verdict) -> TriedRecipe:
    """Describe a tried recipe for the manifest."""
    return TriedRecipe(
        recipe=model.recipe,
        model_bytes=model.model_bytes,
        memory_bytes=model.memory_bytes,
        quality=model.quality,
        exceeded=verdict.exceeded,
        excused=verdict.excused,
    )


def _loss(model: Candidate) -> float:
    return model.quality.kl if model.quality is not None else 0.0


def describe(model: Candidate, verdict: Verdict) -> str:
    """Describe a candidate and the verdict on it in one line: size, quality, limits."""
    figures = figures_text(model.quality) if model.quality is not None else "quality not measured"
    limits = "exceeds " + ", ".join(verdict.exceeded) if verdict.exceeded else "within the limits"
    excused = f" ({'; '.join(verdict.excused)})" if verdict.excused else ""
    return f"{model.recipe:<16} {megabytes(model.model_bytes):>10}  {figures}  {limits}{excused}"


def figures_text(quality: Quality) -> str:
    """Describe measured quality in one line."""
    tail = f" (99.9 %: {quality.kl_tail:.2f})" if quality.kl_tail is not None else ""
    tasks = f"  tasks {quality.tasks.agreed}/{quality.tasks.compared}" if quality.tasks else ""
    return (
        f"KL {quality.kl:.3f}{tail}  top-1 {quality.top1:.3f}  "
        f"perplexity {quality.perplexity:.2f}{tasks}"
    )
