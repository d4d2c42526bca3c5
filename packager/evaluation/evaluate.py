"""How far a quantized model is from its original: KL divergence, top-1 agreement, perplexity.

Both see the same tokens. These are the figures that llama.cpp's perplexity program prints as mean
KLD, "same top p" and PPL. The KL divergence is the one to choose by: it compares all
probabilities, where top-1 agreement is coarse, and where perplexity can stay the same, or improve,
while the answers change.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.manifest import ModelFacts
from device_runtime.bundle.quantization import PromptAnswer, Quality
from packager import console, launch
from packager.errors import EvaluationError
from packager.evaluation import texts
from packager.evaluation.texts import ANSWER_TOKENS
from packager.jobs.harness import run_job
from packager.jobs.measure import AnswerPrompts, Measure, TimeDecoding, WindowMeans
from packager.models.catalog import CATALOG, DEFAULT_MODEL
from packager.models.source import ModelSource, resolve

SPEED_TOKENS = 64
SPEED_ROUNDS = 11
HINT = "See whether `edgepack run` or onnxruntime-genai can use the model."

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
"""Quantiles 0.975 of Student's t distribution for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What the user wants to know.

    Attributes:
        model: ONNX GenAI folder or bundle.
        reference: the original, as `source.resolve` takes it; None for the one that a bundle
            names, or the default model for a folder.
        eval_text: text file to measure on; None for text that the original writes.
        trust_remote_code: run Python code that comes with the original.
    """

    model: Path
    reference: str | None = None
    eval_text: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures and the answers; `reference` is the original's name."""

    reference: str
    quality: Quality
    answers: tuple[PromptAnswer, ...]


def compare(request: EvaluateRequest) -> Evaluation:
    """Measure a built model or a bundle against its original.

    Raises:
        EvaluationError: the model is no built one, or not one of this original; or a text cannot
            be used.
        ModelSourceError: the original cannot be found.
        BundleError: the bundle is damaged.
    """
    trust = request.trust_remote_code
    if request.model.is_dir():
        model = resolve(str(request.model))
        if model.kind != "onnx":
            raise EvaluationError(
                f"{request.model} is no built model but one to build from",
                hint="Give an ONNX GenAI folder or a bundle; `edgepack build` makes one.",
            )
        folder = model.path
        original = resolve(request.reference or DEFAULT_MODEL, trust_remote_code=trust)
    else:
        release = launch.release_of(request.model)
        folder = release.model_folder
        if request.reference is not None:
            original = resolve(request.reference, trust_remote_code=trust)
        else:
            original = _named(release.manifest.model, trust)
    with console.step(f"Asking the original model, {original.name}"):
        reference = texts.prepare(
            original, eval_text=request.eval_text, calibrate=False, trust_remote_code=trust
        )
    with console.step("Letting the model answer"):
        said = answers(folder, reference)
    with console.step("Measuring the model"):
        measured = evaluate(folder, reference)
    return Evaluation(reference=original.name, quality=measured, answers=said)


def _named(facts: ModelFacts, trust_remote_code: bool) -> ModelSource:
    """The original that a bundle names, if it can be found again."""
    kind, _, place = facts.source.partition(": ")
    name = facts.name if facts.name in CATALOG else place if kind == "hub" else None
    if name is None:
        raise EvaluationError(
            f"the bundle's original ({facts.source}) cannot be found by its name alone",
            hint="Give it: --reference with the folder or file that the bundle was built from.",
        )
    source = resolve(name, trust_remote_code=trust_remote_code)
    if source.digest != facts.source_sha256:
        raise EvaluationError(
            f"{name} is not, or no longer, what the bundle was built from",
            hint="Give its original: --reference with the folder or file it was built from.",
        )
    return source


def evaluate(model: Path, reference: Path) -> Quality:
    """Measure an ONNX GenAI folder against its original, on the CPU, with the device's kernels.

    Args:
        model: ONNX GenAI folder for the CPU.
        reference: folder that `evaluation_text.prepare` made.

    Raises:
        EvaluationError: the model does not run, has another vocabulary, or gives the logits of
            the last token only.
    """
    return quality(measure(Measure(model=model, reference=reference)))


def measure(job: Measure) -> WindowMeans:
    """Measure a model on each window of its reference; errors as for `evaluate`."""
    provider = _provider(job.model)
    if provider != "cpu":
        raise EvaluationError(
            f"the model is for {provider}, and models are measured on the CPU",
            hint="Build it for the CPU with the same recipe.",
        )
    windows = _windows(job.reference)
    with console.progress("Measuring", windows, "windows") as advance:
        return run_job(
            job, what="Measuring the model", error=EvaluationError, hint=HINT, advance=advance
        )


def quality(means: WindowMeans) -> Quality:
    """The figures over all windows, from the means of each."""
    kl, top1 = statistics.fmean(means.kl), statistics.fmean(means.top1)
    kl_low, kl_high = interval(means.kl)
    top1_low, top1_high = interval(means.top1)
    return Quality(
        kl=kl,
        kl_interval=(max(kl_low, 0.0), kl_high),
        top1=top1,
        top1_interval=(max(top1_low, 0.0), min(top1_high, 1.0)),
        perplexity=math.exp(statistics.fmean(means.nll)),
        reference_perplexity=math.exp(statistics.fmean(means.reference_nll)),
        tokens=means.tokens,
    )


def interval(windows: Sequence[float]) -> tuple[float, float]:
    """Where the mean lies with 95 % confidence, from the means of two or more windows.

    Student's t over windows. The tokens of a window hang together (they share their context, and
    often their prompt), so the window is the sample, and a normal distribution or a bootstrap over
    single tokens would promise too much. A bootstrap over a dozen windows would do so, too: its
    percentiles are too narrow for so few, where Student's t has the right width for the nearly
    normal means of 255 tokens, and needs no random numbers.
    """
    mean = statistics.fmean(windows)
    freedom = min(len(windows) - 1, len(T_975))
    half = T_975[freedom - 1] * statistics.stdev(windows) / math.sqrt(len(windows))
    return mean - half, mean + half


def answers(model: Path, reference: Path) -> tuple[PromptAnswer, ...]:
    """What both models say to the fixed prompts, greedily.

    Args:
        model: ONNX GenAI folder for the CPU.
        reference: folder that `evaluation_text.prepare` made.

    Raises:
        EvaluationError: the model does not run, or has another tokenizer.
    """
    return answer(answering(model, reference))


def answering(model: Path, reference: Path) -> AnswerPrompts:
    """The job that `answers` does."""
    return AnswerPrompts(model=model, reference=reference, max_tokens=ANSWER_TOKENS)


def answer(job: AnswerPrompts) -> tuple[PromptAnswer, ...]:
    """Let a model answer the prompts of its reference; errors as for `answers`."""
    pairs = run_job(job, what="Letting the model answer", error=EvaluationError, hint=HINT)
    return tuple(PromptAnswer(**msgspec.structs.asdict(pair)) for pair in pairs)


def timing(models: Sequence[Path]) -> TimeDecoding:
    """The job that `decode_speed` does."""
    return TimeDecoding(models=tuple(models), tokens=SPEED_TOKENS, rounds=SPEED_ROUNDS)


def decode_speed(job: TimeDecoding) -> tuple[float, ...]:
    """Tokens a second that each of several ONNX GenAI folders decodes on this machine.

    They take turns in one process, so that the ratios are fair where the machine is not quiet.

    Raises:
        EvaluationError: a model does not run.
    """
    return run_job(job, what="Timing the models", error=EvaluationError, hint=HINT)


def _provider(model: Path) -> str:
    config = json.loads((model / "genai_config.json").read_text())
    options = config["model"]["decoder"].get("session_options", {}).get("provider_options", [])
    return next(iter(options[0])).lower() if options else "cpu"


def _windows(reference: Path) -> int:
    import numpy as np

    return len(np.load(reference / "evaluation.npy", mmap_mode="r"))
