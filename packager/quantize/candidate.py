"""Candidates: a model built with a recipe for a device, checked, run and measured."""

import functools
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.quantization import Quality
from packager import cache, console, plan
from packager.errors import QuantizeError
from packager.evaluation import evaluate, tasks, texts
from packager.genai import folder as genai_folder
from packager.genai import half_graph
from packager.genai.folder import context_length, limit_context, memory_bytes
from packager.genai.weight_files import model_bytes
from packager.jobs import keys
from packager.jobs.build_onnx import BuildOnnx, Weights
from packager.jobs.check import Check, Checked, Graph
from packager.jobs.divergence import WindowMeans, exceeds
from packager.jobs.harness import run_job
from packager.jobs.measure import Answer, AnswerPrompts, Measure
from packager.models import shape
from packager.models.source import ModelSource, as_hf_folder
from packager.plan import Need
from packager.profile import DeviceProfile
from packager.quantize import builder, calibration
from packager.quantize.calibration import Prepared
from packager.quantize.subject import Subject
from packager.recipes.providers import PASS_PROVIDERS, WEBGPU, refusal
from packager.recipes.recipes import KEEP, Recipe
from packager.schedule import Stages

PROMPT = "Name the capital of France."
MAX_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model built with a recipe and, if this machine can run it, tested.

    Attributes:
        recipe: name of the recipe; `as-is` for a model that was given as ONNX.
        precision: weight dtype, as ONNX Runtime GenAI names it.
        folder: ONNX GenAI folder.
        digest: digest of all inputs of the build.
        graph: result of `check`.
        measured: folder that was measured: the same weights for the CPU; None if not measured.
        quality: metrics of the model; None if it cannot be measured on this machine.
        answers: answers of both models to the fixed prompts and the tasks; empty if it cannot run
            here, or is not wanted.
        layers: errors of the linear layers after calibration, with the fields of
            `page.LayerError`; empty without calibration.
        model_bytes: size of graph and weights.
        memory_bytes: estimated resident memory while serving, bytes.
        context_length: maximum of prompt and answer together, tokens: the profile's, or the model's
            own limit if smaller.
    """

    recipe: str
    precision: str
    folder: Path
    digest: str
    graph: Checked
    measured: Path | None
    quality: Quality | None
    answers: tuple[Answer, ...]
    layers: list[dict[str, Any]]
    model_bytes: int
    memory_bytes: int
    context_length: int


def make(subject: Subject, recipe: Recipe | None, most: float | None = None) -> Candidate:
    """Build a model with a recipe and measure it; without one, use an ONNX model as it is.

    Args:
        subject: model, device and text.
        recipe: the recipe; None for an ONNX model.
        most: KL divergence above which the model is not wanted: it is not measured any further,
            and answers nothing. None measures it in any case.

    Raises:
        QuantizeError: the model cannot be built, its graph does not match the recipe, or it
            does not load or generate.
    """
    provider = subject.profile.execution_provider
    if provider == WEBGPU and recipe is not None:
        stage, graph = _built_for_gpu(subject, recipe)
    else:
        stage, graph = _built(subject, recipe, provider)
    measured: Path | None = None
    quality: Quality | None = None
    answers: tuple[Answer, ...] = ()
    if recipe is not None and subject.text is not None and not refusal(recipe, "cpu"):
        # A build for a GPU is measured by the same codes in a graph that this machine can run.
        measured = stage if provider == "cpu" else _built(subject, recipe, "cpu")[0]
        with console.stage(Stages.measuring(recipe.name)):
            quality, answers = _measure(measured, subject.text, most)
    model = stage / "model"
    config = json.loads((model / "genai_config.json").read_text())
    context = context_length(config, subject.profile.context_length)
    if context < subject.profile.context_length:
        console.note(f"the model's context length is {context} tokens, less than the profile's")
    return Candidate(
        recipe=recipe.name if recipe else "as-is",
        precision=recipe.precision if recipe and recipe.name != KEEP else _precision(graph),
        folder=model,
        digest=stage.name,
        graph=graph,
        measured=measured / "model" if measured else None,
        quality=quality,
        answers=answers,
        layers=json.loads((stage / "layers.json").read_text()),
        model_bytes=model_bytes(model),
        memory_bytes=memory_bytes(
            model,
            config,
            context,
            cache_bytes=graph.cache_bytes,
            state_bytes=graph.state_bytes,
            all_logits=graph.all_logits,
        ),
        context_length=context,
    )


def need(source: ModelSource, profile: DeviceProfile, recipe: Recipe) -> Need:
    """Estimate the need of `make` for a model that is not ONNX, and of a bundle of it."""
    return plan.building(
        shape.shape(source).with_context(profile.context_length),
        recipe,
        block_size=profile.block_size,
        windows=texts.calibration_windows(source),
        twice=profile.execution_provider != "cpu",
    )


def _built(subject: Subject, recipe: Recipe | None, provider: str) -> tuple[Path, Checked]:
    """Make the stage with the folder `model`; return the stage and the result of `check`."""
    check = Check(prompt=PROMPT if provider == "cpu" else None, max_tokens=MAX_TOKENS)
    title = f"Building {recipe.name} for {provider}" if recipe else "Checking the ONNX model"
    with console.step(title), console.stage(Stages.building(recipe.name if recipe else "as-is")):
        ready = functools.cache(lambda: _check_need(subject, recipe))
        build, layers = _prepared(subject, recipe, provider, ready) if recipe else (None, [])

        def make(target: Path) -> None:
            model = target / "model"
            ready()
            if build is None:
                shutil.copytree(subject.source.path, model)
            else:
                model.mkdir()
                builder.build(build, model)
            limit_context(model, subject.profile.context_length)
            (target / "layers.json").write_text(json.dumps(layers))
            (target / "check.json").write_bytes(msgspec.json.encode(_check(check, model)))

        inputs = keys.inputs(
            *([build] if build is not None else []),
            check,
            content=subject.content,
            modules=[genai_folder.__name__],
            source=subject.source.digest,
            context_length=subject.profile.context_length,
        )
        stage = cache.stage("onnx", inputs, make)
        graph = msgspec.json.decode((stage / "check.json").read_bytes(), type=Checked)
        _verify(graph, subject, recipe, provider)
        return stage, graph


def _built_for_gpu(subject: Subject, recipe: Recipe) -> tuple[Path, Checked]:
    """Make the stage of a model that a GPU and the CPU run: the CPU's, with a second graph.

    A GPU without fp16 arithmetic runs the graph for the CPU as it is.
    """
    stage, graph = _built(subject, recipe, "cpu")
    if subject.profile.quantization.get("use_webgpu_fp32"):
        return stage, graph
    half, _ = _built(subject, recipe, WEBGPU)

    def make(target: Path) -> None:
        shutil.copytree(stage, target, copy_function=os.link, dirs_exist_ok=True)
        half_graph.add(target / "model", half / "model")

    inputs = keys.inputs(modules=[half_graph.__name__], whole=stage.name, half=half.name)
    return cache.stage("two-graphs", inputs, make), graph


def _check_need(subject: Subject, recipe: Recipe | None) -> None:
    """Refuse a build that this machine lacks the memory or disk space for."""
    if recipe is None:
        files = (path for path in subject.source.path.rglob("*") if path.is_file())
        needed = plan.copying(sum(path.stat().st_size for path in files))
        plan.check(needed, "the build", subject.output)
    else:
        needed = need(subject.source, subject.profile, recipe)
        plan.check(needed, f"building {recipe.name}", subject.output)


def _check(job: Check, model: Path) -> Checked:
    """Inspect a model's graph and, if this machine can run it, generate an answer."""
    with console.step("Checking the graph, loading it and generating"):
        return run_job(
            job,
            model,
            what="Loading the built model and generating",
            error=QuantizeError,
            hint="Nothing was written. Try another recipe.",
        )


def _prepared(
    subject: Subject, recipe: Recipe, provider: str, ready: Callable[[], None]
) -> tuple[BuildOnnx, list[dict[str, Any]]]:
    """Calibrate if required; return the build job and the errors of the layers."""
    options = {name: _text(value) for name, value in subject.profile.quantization.items()}
    source = as_hf_folder(subject.source, trust_remote_code=subject.trust_remote_code)
    weights, prepared = None, Prepared()
    if recipe.algorithm is not None and provider in PASS_PROVIDERS:
        prepared = calibration.prepare(subject, recipe, source, ready)
        weights = Weights(
            algorithm=recipe.algorithm,
            body_bits=recipe.body_bits,
            head_bits=recipe.head_bits,
            embedding_bits=recipe.embedding_bits,
            block_size=subject.profile.block_size,
            symmetric=recipe.symmetric,
            accuracy_level=int(options.get("accuracy_level", 0)),
            sensitive=prepared.sensitive,
            calibrated=prepared.folder,
        )
    job = builder.job(
        source,
        precision=recipe.precision,
        execution_provider=provider,
        options=options if recipe.algorithm is not None else {},
        trust_remote_code=subject.trust_remote_code,
        weights=weights,
        # Only these providers keep tables of different lengths apart.
        positions=shape.table_rows(subject.profile.context_length)
        if provider in PASS_PROVIDERS
        else None,
    )
    return job, prepared.layers


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _verify(graph: Checked, subject: Subject, recipe: Recipe | None, provider: str) -> None:
    """Refuse a graph that does not match its recipe and device."""
    runs = {provider.lower()} | ({"cpu"} if provider == WEBGPU else set())
    if graph.execution_provider not in runs:
        raise QuantizeError(
            f"the model is for {graph.execution_provider}; the profile {subject.profile.name} "
            f"requires {provider}",
            hint="Use a profile with that execution provider, or build from the source model.",
        )
    if recipe is not None and recipe.algorithm is not None and provider in PASS_PROVIDERS:
        problems = graph_problems(recipe, subject.profile, graph)
        if problems:
            raise QuantizeError("the built graph does not match the recipe: " + "; ".join(problems))
    if graph.answer == "":
        console.warn(f"the built model produced no output for {PROMPT!r}")


def graph_problems(recipe: Recipe, profile: DeviceProfile, graph: Graph) -> list[str]:
    """List the differences of a built graph from its recipe, one phrase each."""
    level = int(profile.quantization.get("accuracy_level", 0))
    block_size = profile.block_size
    keeps = recipe.name == KEEP
    problems = [f"{node} has large float weights" for node in graph.large_floats]
    for weight in graph.quantized:
        embedding = weight.operator == "GatherBlockQuantized"
        symmetric = recipe.symmetric or weight.bits == 8
        zeros = ("", "UINT8") if keeps else ("",) if symmetric else ("UINT8",)
        expected = {
            "bits": recipe.bits(weight.node),
            "block_size": (16, 32, block_size) if embedding or keeps else (block_size,),
            "accuracy_level": (0,) if embedding else (level,),
            "zeros": zeros,
        }
        problems += [
            f"{weight.node} has {field} {getattr(weight, field)!r}, not {valid}"
            for field, valid in expected.items()
            if getattr(weight, field) not in valid
        ]
    return problems


class _Measured(msgspec.Struct, frozen=True):
    means: WindowMeans
    answers: tuple[Answer, ...]


def _measure(stage: Path, text: Path, most: float | None) -> tuple[Quality, tuple[Answer, ...]]:
    """Measure the model in a stage; return its metrics and answers."""
    measure = Measure(model=stage / "model", reference=text, most=most)
    answer = AnswerPrompts(model=stage / "model", reference=text)

    def make(target: Path) -> None:
        means = evaluate.measure(measure)
        unwanted = exceeds(means.kl, most)
        measured = _Measured(means, () if unwanted else evaluate.answer(answer))
        (target / "measured.json").write_bytes(msgspec.json.encode(measured))

    with console.step("Measuring what quantization did"):
        folder = cache.stage("measured", keys.inputs(measure, answer), make)
    measured = msgspec.json.decode((folder / "measured.json").read_bytes(), type=_Measured)
    counts = tasks.count(tasks.values(measured.answers)) if measured.answers else None
    return evaluate.quality(measured.means, counts), measured.answers


def _precision(graph: Graph) -> str:
    bits = sorted({weight.bits for weight in graph.quantized})
    return "+".join(f"int{width}" for width in bits) or "float"


def builder_versions() -> dict[str, str]:
    """Return the versions of the packages that determine the output of the model builder."""
    names = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
    return {name: importlib.metadata.version(name).split("+")[0] for name in names}
