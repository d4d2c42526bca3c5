"""Forecast of the memory and disk that a build needs, checked against the machine before it starts.

The forecast for a step is the sum of what it holds in memory: weights in its dtype, KV cache, and
activations of a batch. The factors were fitted to measured peaks of anonymous memory, for
SmolLM2-135M and models of Phi-3.5-mini's shape with 4 and 32 layers; `python -m
scripts.build_memory` compares. Mapped files are not counted: the kernel drops their pages when it
needs the memory.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from packager import cache, console, machine
from packager.errors import ResourceError
from packager.models import gguf, text_model
from packager.models.source import ModelSource, check_original
from packager.recipes.recipes import Recipe, usually_sensitive
from packager.units import gigabytes

WINDOW = 256
"""Tokens in a window of the calibration set and of the evaluation text."""

CACHED = 1_000_000_000
"""Limit of the KV cache while the reference model generates text, bytes."""

_PROGRAM = 200_000_000  # this process
_TORCH = 380_000_000  # a child with torch and transformers
_ONNX = 100_000_000  # a child with ONNX Runtime


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model that determine the need of a build.

    Attributes:
        parameters: number of weights.
        layers: number of decoder layers.
        hidden: width of the hidden states.
        intermediate: width of the MLP's activations.
        queries: total width of the query heads.
        keys: total width of the key heads; values have the same width.
        vocabulary: number of tokens.
        stored: bytes per weight in the Hugging Face folder.
        rotary: size of the tables of rotary embeddings in the graph in fp32, bytes.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    stored: float
    rotary: int = 0

    @property
    def floats(self) -> int:
        """Size of all weights in fp32, bytes."""
        return 4 * self.parameters

    @property
    def head(self) -> int:
        """Size of the head in fp32, bytes: the largest weight of small models."""
        return 4 * self.hidden * self.vocabulary

    @property
    def logits(self) -> int:
        """Size of the logits of a window in fp32, bytes."""
        return 4 * WINDOW * self.vocabulary


@dataclass(frozen=True, kw_only=True)
class Need:
    """Resources that a piece of work needs.

    Attributes:
        memory: peak of anonymous memory, bytes.
        disk: disk space, bytes.
    """

    memory: int
    disk: int

    def then(self, *others: "Need") -> "Need":
        """Return the need of this work followed by other work."""
        needs = (self, *others)
        return Need(
            memory=max(need.memory for need in needs), disk=sum(need.disk for need in needs)
        )


@functools.cache
def shape(source: ModelSource) -> Shape:
    """Read the sizes of a source model from its configuration.

    Raises:
        ModelSourceError: the model is ONNX.
    """
    check_original(source)
    if source.kind == "gguf":
        metadata = gguf.read(source.path).metadata
        prefix = metadata["general.architecture"]
        config = {
            ours: metadata.get(f"{prefix}.{theirs}")
            for ours, theirs in {
                "num_hidden_layers": "block_count",
                "hidden_size": "embedding_length",
                "intermediate_size": "feed_forward_length",
                "num_attention_heads": "attention.head_count",
                "num_key_value_heads": "attention.head_count_kv",
                "head_dim": "attention.key_length",
                "max_position_embeddings": "context_length",
            }.items()
        }
        config["vocab_size"] = metadata["tokenizer.ggml.tokens"]
        config["model_type"] = prefix
        stored = 4.0  # transformers converts it to fp32
    else:
        config = text_model.text_config(source.path)
        tensors = text_model.tensors(source.path, source.architecture)
        stored = sum(tensor.size for tensor, text in tensors if text) / source.parameters
    return shape_of(config, parameters=source.parameters, stored=stored)


def shape_of(config: Mapping[str, Any], *, parameters: int, stored: float) -> Shape:
    """Read the sizes of a model from the values of its config.json.

    Args:
        config: the values; what is missing there is assumed to be as usual.
        parameters: number of weights.
        stored: bytes per weight.
    """

    def size(name: str, usual: int) -> int:
        """Return a size from the configuration, or a usual value if it is not given."""
        value = config.get(name)
        return value if isinstance(value, int) and value > 0 else usual

    hidden, heads = size("hidden_size", 4096), size("num_attention_heads", 32)
    head = size("head_dim", hidden // heads)
    # Sine and cosine of each position for half of a head; Gemma 3 has another base for some layers.
    tables = 2 if str(config.get("model_type", "")).startswith("gemma3") else 1
    return Shape(
        parameters=parameters,
        layers=size("num_hidden_layers", 32),
        hidden=hidden,
        intermediate=size("intermediate_size", 4 * hidden),
        queries=heads * head,
        keys=size("num_key_value_heads", heads) * head,
        vocabulary=size("vocab_size", 128_000),
        stored=stored,
        rotary=tables * 4 * head * size("max_position_embeddings", 0),
    )


def at_once(of: Shape, texts: int, tokens: int) -> int:
    """Return the batch size for generating a number of texts with so many tokens in total."""
    return max(1, min(texts, int(texts * CACHED / _cached(of, tokens))))


def asking(of: Shape, *, written: int, read: int, floats: bool) -> Need:
    """Forecast a run of the reference model.

    Args:
        of: sizes of the model.
        written: tokens to generate.
        read: windows to process, whose logits are stored.
        floats: compute in fp32; else in the stored dtype, mapped from the file.
    """
    weights = of.floats if floats and of.stored < 4 else 0
    work = max(min(_cached(of, written), CACHED), 2 * of.logits)
    return Need(memory=_PROGRAM + _TORCH + weights + work, disk=read * of.logits // 2)


def converting(of: Shape) -> Need:
    """Forecast a conversion to a Hugging Face folder in fp32: of GGUF, or merging an adapter."""
    return Need(memory=_PROGRAM + _TORCH + of.floats, disk=of.floats)


def extracting(of: Shape) -> Need:
    """Forecast taking the text model out of a Hugging Face folder: its files are copied."""
    return Need(memory=_PROGRAM + _TORCH, disk=int(of.stored * of.parameters))


def building(of: Shape, recipe: Recipe, *, windows: int, twice: bool) -> Need:
    """Forecast a build: quantize with a recipe, run and measure the result, write the bundle.

    Args:
        of: sizes of the source model.
        recipe: recipe to build with.
        windows: number of windows to calibrate with.
        twice: build for the CPU too, to measure it.
    """
    model = model_bytes(of, recipe)
    steps = [
        # The model builder keeps fused query, key and value; the pass keeps its quantized weights.
        _TORCH + _joined(of) + model + 3 * of.head // 4,
        _ONNX + 6 * model // 5 + 3 * of.logits,
    ]
    disk = (3 if twice else 2) * model
    if recipe.calibrated:
        hidden = 4 * windows * WINDOW * of.hidden
        steps.append(_TORCH + 3 * hidden + 9 * of.head)
        disk += int(1.2 * of.parameters)  # a byte per code, and the scales
        if recipe.sensitive:
            # Activations kept for differentiation: outputs of each linear layer, attention.
            kept = 4 * WINDOW * of.layers * (6 * of.intermediate + 8 * of.hidden + 8 * of.queries)
            steps.append(_TORCH + of.floats + 10 * of.logits + kept)
    return Need(memory=_PROGRAM + max(steps), disk=disk)


def announce(needs: Iterable[Need]) -> None:
    """Report the maximum need of the whole build."""
    whole = Need(memory=0, disk=0).then(*needs)
    console.note(
        f"needs up to {gigabytes(whole.memory)} RAM and {gigabytes(whole.disk)} disk (less if "
        f"cached); {gigabytes(machine.memory_available())} / "
        f"{gigabytes(machine.disk_free(cache.root()))} available"
    )


def check(need: Need, what: str) -> None:
    """Refuse work that this machine lacks the memory or disk space for.

    Args:
        need: need of the work.
        what: name of the work for the message.

    Raises:
        ResourceError: there is too little memory or disk space.
    """
    memory, disk = machine.memory_available(), machine.disk_free(cache.root())
    if need.memory > memory:
        raise ResourceError(
            f"{what} needs {gigabytes(need.memory)} of memory; {gigabytes(memory)} available",
            hint="Close other programs, build on a larger machine, or use a smaller model or a "
            "recipe that needs less: int4-rtn needs least.",
        )
    if need.disk > disk:
        raise ResourceError(
            f"{what} needs {gigabytes(need.disk)} of disk space; {gigabytes(disk)} available at "
            f"{cache.root()}",
            hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
        )


def _cached(of: Shape, tokens: int) -> int:
    """Size of the KV cache of all layers in fp32 and of partial copies as it grows, bytes."""
    return int(1.4 * 2 * 4 * of.layers * of.keys * tokens)


def _joined(of: Shape) -> int:
    """Size of the query, key and value weights of all layers in the stored dtype, bytes."""
    return int(of.layers * of.hidden * (of.queries + 2 * of.keys) * of.stored)


def model_bytes(of: Shape, recipe: Recipe, block_size: int = 32) -> int:
    """Estimate the size of the model that a recipe builds, bytes.

    A block of codes has a scale in half precision and, unless symmetric or of 8 bits, a zero point.
    """
    if recipe.algorithm is None:
        return of.floats // (2 if recipe.precision == "fp16" else 1) + of.rotary

    def bits(width: int) -> float:
        zero = 0 if recipe.symmetric or width == 8 else width
        return width + (16 + zero) / block_size

    outer = min(of.head // 4, of.parameters)  # head and embedding, counted as one weight
    share = _sensitive_share(of, recipe)
    body = (1 - share) * bits(recipe.body_bits) + share * bits(8)
    if recipe.calibrated:
        size = of.parameters * body  # the head is one of the layers that the share is of
    else:
        head = bits(max(recipe.head_bits, recipe.embedding_bits))
        size = (of.parameters - outer) * body + outer * head
    return int(size / 8) + of.rotary


def _sensitive_share(of: Shape, recipe: Recipe) -> float:
    """Return the fraction of the body's weights, or of all calibrated ones, that gets 8 bits."""
    if not isinstance(recipe.sensitive, str):
        return recipe.sensitive
    mlp = of.hidden * of.intermediate
    # The linear layers of a Llama decoder layer, as they are in the graph.
    layer = {
        "self_attn.qkv_proj": of.hidden * (of.queries + 2 * of.keys),
        "self_attn.o_proj": of.hidden * of.queries,
        "mlp.gate_proj": mlp,
        "mlp.up_proj": mlp,
        "mlp.down_proj": mlp,
    }
    names = (name.partition(".")[2] for name in usually_sensitive(of.layers))
    return sum(layer.get(name, 0) for name in names) / (of.layers * sum(layer.values()))
