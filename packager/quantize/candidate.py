"""One recipe, carried out for one model and one device: built, checked, run and measured."""

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.quantization import PromptAnswer, Quality
from packager import cache, console, plan
from packager.child import run_module
from packager.errors import QuantizeError
from packager.evaluation import evaluate, texts
from packager.genai.folder import context_length, limit_context, memory_bytes
from packager.jobs.build_onnx import Weights
from packager.models.source import ModelSource, as_hf_folder
from packager.plan import Need
from packager.profile import DeviceProfile
from packager.quantize import builder, calibration
from packager.quantize.calibration import Prepared
from packager.recipes.providers import PASS_PROVIDERS, refusal
from packager.recipes.recipes import Recipe

BLOCK_SIZE = 32
PROMPT = "What is the capital of France?"
MAX_TOKENS = 24
SHAPING = (
    *("blocks.py", "../jobs/build_onnx.py", "calibrated.py", "chat_template.py", "corrections.py"),
    *("kquant.py", "linears.py", "nbits.py", "tokenizer_files.py"),
)
"""The modules that shape what a recipe gives: a change in one of them is another result."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What all recipes are tried on.

    Attributes:
        source: the original model.
        profile: the device.
        text: prepared folder of `evaluation_text`; None measures nothing.
        calibration: gives the file of calibration windows, which may take minutes to write.
        trust_remote_code: run Python code that comes with the model.
    """

    source: ModelSource
    profile: DeviceProfile
    text: Path | None
    calibration: Callable[[], Path]
    trust_remote_code: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that has been built with one recipe and, where this machine can, has run.

    Attributes:
        recipe: its name; `as-is` for a model that came as ONNX.
        precision: weight type as ONNX Runtime GenAI names it.
        folder: ONNX GenAI folder.
        digest: digest of all that went into it.
        found: what `check` saw of it.
        measured: the folder that quality was measured on: the same weights for the CPU.
        quality: None where it cannot be measured here.
        answers: to the fixed prompts, by both models; empty where it cannot run here.
        layers: errors of the linear layers after calibration, fields as `report_page.LayerError`
            has them; empty if there was none.
        model_bytes: size of graph and weights.
        memory_bytes: estimate of the resident memory while serving, bytes.
        context_length: prompt and answer together, tokens: the profile's, or the model's own
            limit if that is smaller.
    """

    recipe: str
    precision: str
    folder: Path
    digest: str
    found: dict[str, Any]
    measured: Path | None
    quality: Quality | None
    answers: tuple[PromptAnswer, ...]
    layers: list[dict[str, Any]]
    model_bytes: int
    memory_bytes: int
    context_length: int


def make(subject: Subject, recipe: Recipe | None) -> Candidate:
    """Build a model with a recipe and measure it; without one, take an ONNX model as it is.

    Raises:
        QuantizeError: it cannot be built, its graph is not what was asked for, or it does not
            load or generate.
    """
    provider = subject.profile.execution_provider
    stage = _built(subject, recipe, provider)
    measured, result = None, _Measured(quality=None, answers=())
    if recipe is not None and subject.text is not None and not refusal(recipe, "cpu"):
        # For a GPU, the same codes are measured in a graph that this machine can run.
        measured = stage if provider == "cpu" else _built(subject, recipe, "cpu")
        result = _measure(measured, subject.text)
    model = stage / "model"
    config = json.loads((model / "genai_config.json").read_text())
    found = json.loads((stage / "check.json").read_text())
    context = context_length(config, subject.profile.context_length)
    return Candidate(
        recipe=recipe.name if recipe else "as-is",
        precision=recipe.precision if recipe else _precision_found(found),
        folder=model,
        digest=stage.name,
        found=found,
        measured=measured / "model" if measured else None,
        quality=result.quality,
        answers=result.answers,
        layers=json.loads((stage / "layers.json").read_text()),
        model_bytes=sum(path.stat().st_size for path in model.glob("*.onnx*")),
        memory_bytes=memory_bytes(model, config, context),
        context_length=context,
    )


def need(source: ModelSource, profile: DeviceProfile, recipe: Recipe) -> Need:
    """What `make` takes for a model that is not ONNX, and a bundle of it."""
    return plan.building(
        plan.shape(source),
        recipe,
        windows=texts.CALIBRATION.windows,
        twice=profile.execution_provider != "cpu",
    )


def _built(subject: Subject, recipe: Recipe | None, provider: str) -> Path:
    """The stage with the folder `model` and what was seen of it, `check.json`."""
    source, profile = subject.source, subject.profile
    inputs = {
        "source": source.digest,
        "recipe": msgspec.to_builtins(recipe),
        "execution_provider": provider,
        "quantization": dict(profile.quantization),
        "context_length": profile.context_length,
        "trust_remote_code": subject.trust_remote_code,
        "versions": builder_versions(),
        "quantizer": [cache.file_digest(Path(__file__).parent / name) for name in SHAPING],
        "prompt": [PROMPT, MAX_TOKENS],
    }
    if recipe is not None and recipe.calibrated:
        inputs["calibration"] = cache.file_digest(subject.calibration())

    def make(target: Path) -> None:
        model = target / "model"
        layers: list[dict[str, Any]] = []
        if recipe is None:
            shutil.copytree(source.path, model)
        else:
            plan.check(need(source, profile, recipe), f"building {recipe.name}")
            layers = _build(subject, recipe, provider, model, target / "work")
        limit_context(model, profile.context_length)
        with console.step("Checking the graph, loading it and generating"):
            found = _check(model, subject, recipe, provider)
        (target / "layers.json").write_text(json.dumps(layers))
        (target / "check.json").write_text(json.dumps(found))

    title = f"Building {recipe.name} for {provider}" if recipe else "Checking the ONNX model"
    with console.step(title):
        return cache.stage("onnx", inputs, make)


def _build(
    subject: Subject, recipe: Recipe, provider: str, model: Path, work: Path
) -> list[dict[str, Any]]:
    """Run the builder; the errors of the layers after calibration."""
    options = {name: _text(value) for name, value in subject.profile.quantization.items()}
    block_size = int(options.get("block_size", BLOCK_SIZE))
    source = as_hf_folder(subject.source, trust_remote_code=subject.trust_remote_code)
    weights, prepared = None, Prepared()
    if recipe.algorithm is not None and provider in PASS_PROVIDERS:
        prepared = calibration.prepare(subject, recipe, source, block_size)
        weights = Weights(
            algorithm=recipe.algorithm,
            body_bits=recipe.body_bits,
            head_bits=recipe.head_bits,
            embedding_bits=recipe.embedding_bits,
            block_size=block_size,
            symmetric=recipe.symmetric,
            accuracy_level=int(options.get("accuracy_level", 0)),
            sensitive=prepared.sensitive,
            calibrated=str(prepared.folder) if prepared.folder else None,
        )
    model.mkdir()
    builder.build(
        source,
        model,
        work,
        precision=recipe.precision,
        execution_provider=provider,
        options=options if recipe.algorithm is not None else {},
        trust_remote_code=subject.trust_remote_code,
        weights=weights,
    )
    shutil.rmtree(work, ignore_errors=True)
    return prepared.layers


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(folder: Path, subject: Subject, recipe: Recipe | None, provider: str) -> dict[str, Any]:
    """Check the graph against what was asked for and, where this machine can, let it answer."""
    mode = "run" if provider == "cpu" else "look"
    output = run_module(
        "packager.jobs.check",
        [folder, mode, PROMPT, str(MAX_TOKENS)],
        what="Loading the built model and generating",
        error=QuantizeError,
        hint="Nothing was written. Try another recipe.",
    )
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    if found["execution_provider"] != provider.lower():
        raise QuantizeError(
            f"the model is for {found['execution_provider']}, "
            f"{subject.profile.name} wants {provider}",
            hint="Use a profile with that execution provider, or build from the original model.",
        )
    if recipe is not None and recipe.algorithm is not None and provider in PASS_PROVIDERS:
        wrong = graph_problems(recipe, subject.profile, found)
        if wrong:
            raise QuantizeError("the graph is not what was asked for: " + "; ".join(wrong))
    if mode == "run" and not found["answer"]:
        console.warn(f"the built model answers nothing to {PROMPT!r}")
    return found


def graph_problems(recipe: Recipe, profile: DeviceProfile, found: dict[str, Any]) -> list[str]:
    """What of a built graph is not as its recipe says, one phrase each."""
    level = int(profile.quantization.get("accuracy_level", 0))
    block_size = int(profile.quantization.get("block_size", BLOCK_SIZE))
    wrong = [f"{node} has large float weights" for node in found["large_floats"]]
    for one in found["quantized"]:
        embedding = one["operator"] == "GatherBlockQuantized"
        expected = {
            "bits": recipe.bits(one["node"]),
            "block_size": (16, 32, block_size) if embedding else (block_size,),
            "accuracy_level": (0,) if embedding else (level,),
            "zeros": ("",) if recipe.symmetric or one["bits"] == 8 else ("UINT8",),
        }
        wrong += [
            f"{one['node']} has {key} {one[key]!r}, not {valid}"
            for key, valid in expected.items()
            if one[key] not in valid
        ]
    return wrong


class _Measured(msgspec.Struct, frozen=True):
    quality: Quality | None
    answers: tuple[PromptAnswer, ...]


def _measure(stage: Path, text: Path) -> _Measured:
    def make(target: Path) -> None:
        model = stage / "model"
        result = _Measured(evaluate.evaluate(model, text), evaluate.answers(model, text))
        (target / "measured.json").write_bytes(msgspec.json.encode(result))

    with console.step("Measuring what quantization did"):
        folder = cache.stage("measured", {"model": stage.name, "text": text.name}, make)
    return msgspec.json.decode((folder / "measured.json").read_bytes(), type=_Measured)


def _precision_found(found: dict[str, Any]) -> str:
    bits = sorted({one["bits"] for one in found["quantized"]})
    return "+".join(f"int{each}" for each in bits) or "float"


def builder_versions() -> dict[str, str]:
    """Versions of the packages that determine what the model builder makes."""
    names = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
    return {name: importlib.metadata.version(name).split("+")[0] for name in names}
