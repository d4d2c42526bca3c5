"""Quantize a model for a profile: build, check the graph, load it, let it answer. All cached."""

import importlib.metadata
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.manifest import Component, PromptAnswer, QuantizationFacts
from packager import cache, console
from packager.child import run_module
from packager.errors import QuantizeError
from packager.profile import DeviceProfile
from packager.quantize import builder
from packager.source import ModelSource, as_hf_folder

PROMPT = "What is the capital of France?"
MAX_TOKENS = 24
BITS = {"int4": 4, "int8": 8}
TOKENIZER_FILES = (
    "tokenizer",
    "vocab",
    "merges",
    "chat_template",
    "special_tokens",
    "added_tokens",
)

# What the resident memory holds beside weights and KV cache: the program itself, its libraries
# and the activations of one chunk of the prompt. Measured with SmolLM2-135M, see docs.
BASE_BYTES = 200 << 20


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """A model that has been built and has run.

    Attributes:
        folder: ONNX GenAI folder.
        digest: digest of all that went into it.
        facts: for the manifest.
        context_length: prompt and answer together, tokens: the profile's, or the model's own
            limit if that is smaller.
        memory_bytes: estimate of the resident memory while serving, bytes.
    """

    folder: Path
    digest: str
    facts: QuantizationFacts
    context_length: int
    memory_bytes: int


def quantize(
    source: ModelSource, profile: DeviceProfile, *, trust_remote_code: bool = False
) -> QuantizedModel:
    """Build the model for a profile, or take an ONNX model as it is; prove that it runs.

    Raises:
        QuantizeError: it cannot be built, its graph is not what was asked for, it does not load
            or generate, or it needs more memory than the profile allows.
    """
    as_is = source.kind == "onnx"
    options = {} if as_is else dict(profile.quantization)
    inputs = {
        "source": source.digest,
        "precision": "as-is" if as_is else profile.precision,
        "execution_provider": profile.execution_provider,
        "options": options,
        "context_length": profile.context_length,
        "trust_remote_code": trust_remote_code,
        "versions": builder_versions(),
        "prompt": [PROMPT, MAX_TOKENS],
    }

    def make(target: Path) -> None:
        model = target / "model"
        if as_is:
            shutil.copytree(source.path, model)
        else:
            model.mkdir()
            work = target / "work"
            builder.build(
                as_hf_folder(source, trust_remote_code=trust_remote_code),
                model,
                work,
                precision=profile.precision,
                execution_provider=profile.execution_provider,
                options=profile.quantization,
                trust_remote_code=trust_remote_code,
            )
            shutil.rmtree(work, ignore_errors=True)
        _limit_context(model, profile.context_length)
        with console.step("Checking the graph, loading it and generating"):
            found = _check(model, profile)
        (target / "check.json").write_text(json.dumps(found))

    title = "Checking the ONNX model" if as_is else f"Quantizing to {profile.precision}"
    with console.step(title):
        folder = cache.stage("onnx", inputs, make)
    found = json.loads((folder / "check.json").read_text())
    reference = "" if as_is else _reference_answer(source, trust_remote_code)
    facts = QuantizationFacts(
        recipe="as-is" if as_is else profile.precision,
        precision=_precision_found(found) if as_is else profile.precision,
        execution_provider=found["execution_provider"],
        options=dict(sorted(options.items())),
        operators=found["operators"],
        answers=(
            PromptAnswer(prompt=PROMPT, reference=reference, quantized=found.get("answer", "")),
        ),
    )
    model = folder / "model"
    config = json.loads((model / "genai_config.json").read_text())
    context_length = config["search"]["max_length"]
    memory = memory_bytes(model, config, context_length)
    if memory > profile.memory_budget_mb << 20:
        raise QuantizeError(
            f"serving this model takes about {memory >> 20} MiB, "
            f"{profile.name} allows {profile.memory_budget_mb}",
            hint="Choose a smaller model, or a profile with a smaller context_length.",
        )
    return QuantizedModel(
        folder=model,
        digest=cache.key(inputs),
        facts=facts,
        context_length=context_length,
        memory_bytes=memory,
    )


def builder_versions() -> dict[str, str]:
    """Versions of the packages that determine what the model builder makes."""
    names = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
    return {name: importlib.metadata.version(name).split("+")[0] for name in names}


def memory_bytes(folder: Path, config: dict[str, Any], context_length: int) -> int:
    """Estimate of the resident memory while serving, bytes.

    Weights, plus the KV cache that ONNX Runtime GenAI allocates in full for `max_length` tokens
    (keys and values, each layers x KV heads x head size), plus `BASE_BYTES`.
    """
    decoder = config["model"]["decoder"]
    weights = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    element = 4 if not decoder["session_options"]["provider_options"] else 2
    cache_bytes: int = (
        2
        * decoder["num_hidden_layers"]
        * decoder["num_key_value_heads"]
        * decoder["head_size"]
        * context_length
        * element
    )
    return weights + cache_bytes + BASE_BYTES


def component(path: str) -> Component:
    """Which part of a bundle a file of a model folder belongs to."""
    return "tokenizer" if path.startswith(TOKENIZER_FILES) else "model"


def _limit_context(folder: Path, context_length: int) -> None:
    """Make `max_length` the profile's: the KV cache is allocated for it up front.

    The model's own default may ask a small board for gigabytes. Some folders carry more fields
    than we know; they are kept.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    limit = min(context_length, config["model"]["context_length"])
    if limit < context_length:
        console.note(f"the model's own context is {limit} tokens; the profile would allow more")
    config.setdefault("search", {})["max_length"] = limit
    path.write_text(json.dumps(config, indent=4) + "\n")


def _check(folder: Path, profile: DeviceProfile) -> dict[str, Any]:
    """Check the graph against the profile and, where this machine can, let it answer."""
    runs_here = profile.execution_provider == "cpu"
    mode = "run" if runs_here else "look"
    found = _child("check", "the built model", [folder, mode, PROMPT, str(MAX_TOKENS)])
    if found["execution_provider"] != profile.execution_provider:
        raise QuantizeError(
            f"the model is for {found['execution_provider']}, "
            f"{profile.name} wants {profile.execution_provider}",
            hint="Use a profile with that execution provider, or build from the original model.",
        )
    level = profile.quantization.get("accuracy_level")
    if found["bits"] and level is not None and found["accuracy_levels"] != [int(level)]:
        raise QuantizeError(f"the graph has accuracy levels {found['accuracy_levels']}")
    if runs_here and not found["answer"]:
        console.warn(f"the built model answers nothing to {PROMPT!r}")
    return found


def _precision_found(found: dict[str, Any]) -> str:
    names = {bits: name for name, bits in BITS.items()}
    return "+".join(names.get(bits, f"{bits} bits") for bits in found["bits"]) or "float"


def _reference_answer(source: ModelSource, trust_remote_code: bool) -> str:
    inputs = {
        "source": source.digest,
        "prompt": [PROMPT, MAX_TOKENS],
        "versions": builder_versions(),
    }

    def make(target: Path) -> None:
        folder = as_hf_folder(source, trust_remote_code=trust_remote_code)
        trust = str(trust_remote_code).lower()
        found = _child("reference", "the original model", [folder, trust, PROMPT, str(MAX_TOKENS)])
        (target / "answer.json").write_text(json.dumps(found))

    with console.step("Asking the original model"):
        folder = cache.stage("reference", inputs, make)
    return str(json.loads((folder / "answer.json").read_text())["answer"])


def _child(module: str, what: str, arguments: list[str | Path]) -> dict[str, Any]:
    """Run a module of this package in a process of its own; the JSON on its last line."""
    output = run_module(
        f"packager.quantize.{module}",
        arguments,
        what=f"Loading {what} and generating",
        error=QuantizeError,
        hint="Nothing was written. Try another precision in the profile.",
    )
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result
