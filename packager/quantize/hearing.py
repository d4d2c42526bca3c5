"""The gate of the speech model: the smallest weights with which it keeps the limits."""

from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.quantization import Quality
from device_runtime.bundle.speech import Speech, SpeechWeights, TriedSpeech
from packager import console, plan
from packager.errors import ModelSourceError
from packager.evaluation import speech_quality
from packager.evaluation.speech_quality import SpeechReference
from packager.models import speech
from packager.models.facts import model_facts
from packager.models.source import ModelSource
from packager.models.speech import SpeechModel
from packager.profile import DeviceProfile
from packager.quantize import gate
from packager.units import megabytes

SMALLER: tuple[SpeechWeights, ...] = ("int4", "int8")
"""Types of weights below fp32, smallest first."""

ROUNDING = 1e-4
"""Nats a token that the graphs in fp32 may differ from the reference model."""

MOST_KL = 0.02
"""Nats a token that smaller weights may lose, whatever the profile allows an answer, of which
several are right. Whisper base loses 0.058 with 4 bits and 0.0016 with 8; of 27 recordings of
speech, it then writes 10 and 2 down otherwise (`tests/support/real_speech.py`)."""


@dataclass(frozen=True, kw_only=True)
class ChosenSpeech:
    """A speech model for a bundle.

    Attributes:
        model: the exported model.
        facts: its description for the manifest.
    """

    model: SpeechModel
    facts: Speech


@dataclass(frozen=True, kw_only=True)
class _Measured:
    model: SpeechModel
    quality: Quality
    exceeded: tuple[str, ...]

    @property
    def fact(self) -> TriedSpeech:
        return TriedSpeech(
            weights=self.model.weights,
            model_bytes=self.model.size,
            quality=self.quality,
            exceeded=self.exceeded,
        )


def choose(source: ModelSource, profile: DeviceProfile, recordings: Path) -> ChosenSpeech:
    """Export a speech model with the smallest weights that keep the limits of a profile.

    If none does, it is taken in fp32, which is the reference model itself.

    Args:
        source: the model, from `speech.resolve`.
        profile: the device.
        recordings: folder of `speech_quality.prepare`.

    Raises:
        ModelSourceError: it cannot be exported, or its graphs compute something else.
        EvaluationError: it does not run.
        ResourceError: this machine lacks memory or disk space.
    """
    plan.check(plan.hearing(source.parameters), f"exporting {source.name}")
    with console.step(f"Running the reference of the speech model, {source.name}"):
        reference = speech_quality.refer(source, recordings)
    floats = _measure(source, "fp32", profile, reference)
    if not floats.quality.kl < ROUNDING:
        raise ModelSourceError(
            f"the exported graphs of {source.name} compute other probabilities than transformers: "
            f"KL {floats.quality.kl:.5f}",
            hint="Use another speech model.",
        )
    tried: list[_Measured] = []
    for weights in SMALLER:
        tried.append(_measure(source, weights, profile, reference))
        if not tried[-1].exceeded:
            break
    chosen = tried[-1] if not tried[-1].exceeded else floats
    config = speech.read(source.path, source.name)
    return ChosenSpeech(
        model=chosen.model,
        facts=Speech(
            model=model_facts(source),
            weights=chosen.model.weights,
            languages=config.languages,
            memory_bytes=chosen.model.memory_bytes,
            quality=chosen.quality,
            tried=tuple(result.fact for result in (*tried, floats)),
        ),
    )


def _measure(
    source: ModelSource, weights: SpeechWeights, profile: DeviceProfile, reference: SpeechReference
) -> _Measured:
    """Export a model with weights of a type, and measure it."""
    model = speech.export(source, weights)
    with console.step(f"Measuring the speech model in {weights}"):
        quality = speech_quality.measure(model, reference)
    exceeded, _ = gate.quality_verdict(quality, profile.limits, source.parameters)
    if quality.kl > MOST_KL and not exceeded:
        exceeded.append(f"KL {quality.kl:.3f} > {MOST_KL} for speech")
    limits = "exceeds " + ", ".join(exceeded) if exceeded else "within the limits"
    console.note(
        f"speech {weights:<9} {megabytes(model.size):>10}  {gate.figures_text(quality)}  {limits}"
    )
    return _Measured(model=model, quality=quality, exceeded=tuple(exceeded))
