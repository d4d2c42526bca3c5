"""The gate with pictures: the smallest vision part with which a model keeps the limits."""

import functools
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.quantization import Quality
from device_runtime.bundle.vision import TriedVision, Vision, VisionWeights
from packager import console, plan
from packager.errors import QualityError
from packager.evaluation import picture_quality
from packager.evaluation.picture_quality import PictureQuality, PictureReference, PictureResult
from packager.models import vision
from packager.models.source import ModelSource
from packager.models.vision import VisionModel, VisionPart
from packager.profile import DeviceProfile
from packager.quantize import gate
from packager.quantize.candidate import Candidate
from packager.units import megabytes

SMALLER: tuple[VisionWeights, ...] = ("int8", "fp16")
"""Types of weights below fp32, smallest first."""

MORE_KL = 0.005
"""Nats a token by which the KL divergence with a smaller vision part may exceed that with fp32."""

ROOM = 256
"""Tokens that a question about an image and its answer take at least."""

LESS_TOP1 = 0.02
"""Share of the tokens by which its top-1 agreement may fall short of that."""


@dataclass(frozen=True, kw_only=True)
class ChosenSight:
    """A model that sees, for a bundle, and how well.

    Attributes:
        model: the whole model.
        facts: what the manifest says of its sight.
        results: its results on each picture; empty if it was not measured.
    """

    model: VisionModel
    facts: Vision
    results: tuple[PictureResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Measured:
    part: VisionPart
    measured: PictureQuality
    limits: tuple[str, ...]
    """Limits of the profile that are exceeded."""
    losses: tuple[str, ...] = ()
    """Losses against fp32 beyond those that are allowed."""

    @property
    def exceeded(self) -> tuple[str, ...]:
        return (*self.limits, *self.losses)

    @property
    def fact(self) -> TriedVision:
        return TriedVision(
            weights=self.part.weights,
            vision_bytes=self.part.size,
            quality=self.measured.quality,
            exceeded=self.exceeded,
        )


def prepare(source: ModelSource, profile: DeviceProfile) -> None:
    """Export the vision part of a source model, and check that the device's context has room for
    an image, before the work that takes longest.

    Raises:
        QuantizeError: it cannot be exported.
        QualityError: an image can take more tokens than the context has.
        ResourceError: this machine lacks memory or disk space.
    """
    if source.kind != "hf":
        return
    need = plan.exporting(vision.parameters(source))
    plan.check(need, f"exporting the vision part of {source.name}")
    tokens = vision.export(source).exported.image_tokens
    if tokens + ROOM > profile.context_length:
        raise QualityError(
            f"an image takes up to {tokens} tokens of {source.name}; the context of the profile "
            f"{profile.name} has {profile.context_length}",
            hint=f"Use a profile with context_length = {tokens + ROOM} or more, or leave the "
            "vision part out (--text-only).",
        )


class Sight:
    """A source model's sight, measured on pictures.

    Args:
        source: the source model, which sees.
        profile: the device.
        pictures: folder of `picture_quality.prepare`.
        trust_remote_code: run Python code that comes with the model.
    """

    def __init__(
        self,
        source: ModelSource,
        profile: DeviceProfile,
        pictures: Path,
        *,
        trust_remote_code: bool,
    ) -> None:
        self._source, self._profile, self._pictures = source, profile, pictures
        self._trust_remote_code = trust_remote_code
        self._gauges: dict[Path, _Gauge] = {}

    def exceeded(self, model: Candidate) -> tuple[str, ...]:
        """List the limits that a text model exceeds on pictures, with the vision part in fp32.

        Raises:
            QuantizeError: the vision part cannot be exported or joined.
            EvaluationError: a model does not run.
        """
        gauge = self._gauge(model)
        return gauge.floats.limits if gauge is not None else ()

    def choose(self, model: Candidate) -> ChosenSight:
        """Join a built text model and the smallest vision part that keeps the limits.

        First the model is measured with the vision part in fp32; one that exceeds limits then was
        allowed to. A model that came as ONNX, or that this machine cannot run, is taken as it is,
        unmeasured.

        Raises:
            QuantizeError: the vision part cannot be exported, stored or joined.
            EvaluationError: a model does not run.
        """
        gauge = self._gauge(model)
        if gauge is None:
            part = vision.export(self._source) if self._source.kind == "hf" else None
            whole = vision.complete(part, model.folder, model.digest)
            return ChosenSight(model=whole, facts=whole.facts)
        chosen = floats = gauge.floats
        tried = []
        for weights in SMALLER:
            smaller = gauge.measure(vision.stored(floats.part, weights), floats)
            tried.append(smaller)
            if not smaller.losses and (floats.limits or not smaller.limits):
                chosen = smaller
                break
        whole = vision.complete(chosen.part, model.folder, model.digest)
        facts = msgspec.structs.replace(
            whole.facts,
            quality=chosen.measured.quality,
            tried=tuple(result.fact for result in (*tried, floats)),
            answers=tuple(result.answer for result in chosen.measured.results),
        )
        return ChosenSight(model=whole, facts=facts, results=chosen.measured.results)

    def _gauge(self, model: Candidate) -> "_Gauge | None":
        """Return what measures a text model; None for one that is not measured."""
        if self._source.kind != "hf" or model.measured is None:
            return None
        if model.measured not in self._gauges:
            self._gauges[model.measured] = _Gauge(
                self._source,
                model.measured,
                self._profile,
                self._pictures,
                trust_remote_code=self._trust_remote_code,
            )
        return self._gauges[model.measured]


class _Gauge:
    """Measures one text model with different vision parts."""

    def __init__(
        self,
        source: ModelSource,
        model: Path,
        profile: DeviceProfile,
        pictures: Path,
        *,
        trust_remote_code: bool,
    ) -> None:
        self._folder = model
        self._profile, self._parameters = profile, source.parameters
        self._part = vision.export(source)
        self._reference: PictureReference = picture_quality.refer(
            source,
            self._complete(self._part),
            self._part.exported,
            pictures,
            trust_remote_code=trust_remote_code,
        )

    def _complete(self, part: VisionPart) -> VisionModel:
        return vision.complete(part, self._folder, self._folder.parent.name)

    @functools.cached_property
    def floats(self) -> _Measured:
        """The model with the vision part in fp32."""
        return self.measure(self._part)

    def measure(self, part: VisionPart, floats: _Measured | None = None) -> _Measured:
        """Measure the model with a vision part, and compare it with that in fp32."""
        with console.step(f"Measuring on pictures, vision part in {part.weights}"):
            measured = picture_quality.measure(self._complete(part), self._reference)
        quality = measured.quality
        limits, _ = gate.quality_verdict(quality, self._profile.limits, self._parameters)
        result = _Measured(
            part=part,
            measured=measured,
            limits=tuple(limits),
            losses=_losses(quality, floats.measured.quality) if floats is not None else (),
        )
        console.note(_describe(result))
        return result


def _losses(quality: Quality, floats: Quality) -> tuple[str, ...]:
    """List what a smaller vision part loses against fp32 beyond what it may, one phrase each."""
    losses = []
    if quality.kl > floats.kl + MORE_KL:
        losses.append(f"KL {quality.kl:.4f} > {floats.kl:.4f} with fp32 + {MORE_KL}")
    if quality.top1 < floats.top1 - LESS_TOP1:
        losses.append(f"top-1 {quality.top1:.3f} < {floats.top1:.3f} with fp32 - {LESS_TOP1}")
    return tuple(losses)


def _describe(result: _Measured) -> str:
    """Describe a vision part and the model's quality with it in one line."""
    limits = "exceeds " + ", ".join(result.exceeded) if result.exceeded else "within the limits"
    figures = gate.figures_text(result.measured.quality)
    size = megabytes(result.part.size)
    return f"vision {result.part.weights:<9} {size:>10}  {figures}  {limits}"
