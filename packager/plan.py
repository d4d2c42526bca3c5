"""Forecast of the memory and disk that a build needs, checked against the machine before it starts.

The forecast for a step is the sum of what it holds in memory: weights in its dtype, KV cache, and
activations of a batch. The factors were fitted to measured peaks of anonymous memory, for a tiny
model and models of Phi-3.5-mini's shape with 1 and 32 layers; `python -m scripts.build_memory`
compares. Mapped files are not counted: the kernel drops their pages when it needs the memory.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packager import cache, console, machine
from packager.errors import ResourceError
from packager.jobs import sensitivity
from packager.models.shape import WINDOW, Shape
from packager.recipes.recipes import KEEP, Recipe, usually_sensitive
from packager.units import gigabytes
from packager.weights.layerwise import AT_A_TIME

CACHED = 4_000_000_000
"""Limit of the KV cache while the reference model generates text, bytes. A step with many prompts
takes hardly longer than one with few, unless their cache takes memory from the weights."""

_PROGRAM = 100_000_000  # this process
_TORCH = 280_000_000  # a child with torch and transformers
_ONNX = 150_000_000  # a child with ONNX Runtime


@dataclass(frozen=True, kw_only=True)
class Need:
    """Resources that a piece of work needs.

    Attributes:
        memory: peak of anonymous memory, bytes.
        disk: disk space in the cache, bytes.
        bundle: size of the bundle that comes of it, without the runtime, bytes.
    """

    memory: int
    disk: int
    bundle: int = 0

    def then(self, *others: "Need") -> "Need":
        """Return the need of this work followed by other work."""
        needs = (self, *others)
        return Need(
            memory=max(need.memory for need in needs),
            disk=sum(need.disk for need in needs),
            bundle=max(need.bundle for need in needs),
        )


def at_once(of: Shape, texts: int, tokens: int, *, floats: bool) -> int:
    """Return the batch size for generating a number of texts with so many tokens in total."""
    batches = math.ceil(_cached(of, tokens, floats) / CACHED)
    return math.ceil(texts / max(batches, 1))


def in_floats(of: Shape, need: Need) -> bool:
    """Decide whether the reference model generates in fp32, or in its stored dtype.

    That takes half the memory and, in bfloat16 on a processor that has it, half the time. Free
    memory does not count, or the result would not be the same tomorrow.

    Args:
        of: sizes of the model.
        need: what generating in fp32 needs.
    """
    if of.dtype == "bfloat16" and machine.multiplies_bfloat16():
        return False
    return need.memory <= machine.memory_total()


def asking(of: Shape, *, written: int, read: int, floats: bool) -> Need:
    """Forecast a run of the reference model.

    Args:
        of: sizes of the model.
        written: tokens to generate.
        read: windows to process, whose logits are stored.
        floats: generate in fp32; else in the stored dtype, mapped from the file.
    """
    weights = of.floats if floats and of.stored < 4 else 0
    writing = weights + min(_cached(of, written, floats), CACHED)
    # One layer, or the embedding, or the head; and the states of all windows.
    hidden = 4 * read * WINDOW * of.hidden
    reading = max(of.head, of.layer + _activations(of)) + 3 * hidden
    return Need(
        memory=_PROGRAM + _TORCH + max(writing, reading), disk=read * of.logits // 2 + hidden
    )


def converting(of: Shape, at_a_time: float = math.inf) -> Need:
    """Forecast writing a plain Hugging Face folder, so many weights and a layer at a time."""
    held = min(of.floats, 4 * at_a_time + of.layer + 3 * of.head)
    return Need(memory=_PROGRAM + _TORCH + int(held), disk=of.floats)


def extracting(of: Shape) -> Need:
    """Forecast taking the text model out of a Hugging Face folder: its files are copied."""
    return Need(memory=_PROGRAM + _TORCH, disk=int(of.stored * of.parameters))


def building(of: Shape, recipe: Recipe, *, windows: int, twice: bool, block_size: int = 32) -> Need:
    """Forecast a build: quantize with a recipe, run and measure the result, write the bundle.

    Args:
        of: sizes of the source model.
        recipe: recipe to build with.
        windows: number of windows to calibrate with.
        twice: build for the CPU too, to measure it.
        block_size: weights that share a scale.
    """
    model = model_bytes(of, recipe, block_size)
    steps = [
        # The model builder keeps fused query, key and value; the pass keeps its quantized weights.
        _TORCH + _joined(of) + model + 5 * of.head // 4,
        _ONNX + 6 * model // 5 + 3 * of.logits,
    ]
    disk = (3 if twice else 2) * model
    if recipe.name == KEEP:
        disk += int(1.2 * of.parameters)  # a byte per code, and the scales
        steps.append(_TORCH + 3 * of.head)
    if recipe.calibrated:
        hidden = 4 * windows * WINDOW * of.hidden
        steps.append(_TORCH + 3 * hidden + max(6 * of.head, 9 * of.layer))
        disk += int(1.2 * of.parameters) + hidden  # a byte per code, and the scales
        if recipe.sensitive:
            # A layer, or the head, and its quantized form; the states of both models are stored.
            kept = 4 * sensitivity.WINDOWS * WINDOW * of.hidden
            steps.append(_TORCH + max(2 * of.head, 2 * of.layer + _activations(of)) + 4 * kept)
            disk += 3 * (of.layers + 1) * kept
    return Need(memory=_PROGRAM + max(steps), disk=disk, bundle=model)


def exporting(parameters: int) -> Need:
    """Forecast the export of an encoder of so many weights: with 560 M, it took 6.6 GB."""
    # Twice in torch and once in the graph, in fp32.
    return Need(memory=(400 << 20) + 12 * parameters, disk=6 * parameters)


def hearing(parameters: int) -> Need:
    """Forecast the exports of a speech model of so many weights, in fp32, 4 and 8 bits."""
    # In fp32, a matrix is there twice: with 38 M weights, the three had 311 MB.
    return Need(memory=exporting(parameters).memory, disk=9 * parameters)


def copying(size: int) -> Need:
    """Forecast a build that takes a finished model of some bytes as it is."""
    return Need(memory=0, disk=size, bundle=size)


def announce(needs: Iterable[Need]) -> None:
    """Report the maximum need of the whole build."""
    whole = Need(memory=0, disk=0).then(*needs)
    console.note(
        f"needs up to {gigabytes(whole.memory)} RAM and {gigabytes(whole.disk)} disk (less if "
        f"cached); {gigabytes(machine.memory_available())} / "
        f"{gigabytes(machine.disk_free(cache.root()))} available"
    )


def check(need: Need, what: str, output: Path | None = None) -> None:
    """Refuse work that this machine lacks the memory or disk space for.

    Args:
        need: need of the work.
        what: name of the work for the message.
        output: path of the bundle; None if that is not known yet.

    Raises:
        ResourceError: there is too little memory or disk space.
    """
    memory, disk = machine.memory_available(), machine.disk_free(cache.root())
    if need.memory > memory:
        raise ResourceError(
            f"{what} needs {gigabytes(need.memory)} of memory; {gigabytes(memory)} available",
            hint="Close other programs, build on a larger machine, or use a smaller model. Of the "
            "recipes, int4-rtn needs least.",
        )
    if need.disk > disk:
        raise ResourceError(
            f"{what} needs {gigabytes(need.disk)} of disk space; {gigabytes(disk)} available at "
            f"{cache.root()}",
            hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
        )
    if output is not None:
        check_output(need.bundle, output)


def check_output(bundle: int, output: Path, option: str = "-o FILE.epk") -> None:
    """Refuse a bundle that does not fit where it goes.

    Args:
        bundle: size of the bundle, bytes.
        output: path of the bundle.
        option: option that sets the path, for the hint.

    Raises:
        ResourceError: there is too little disk space.
    """
    free = machine.disk_free(output.parent)
    if bundle > free:
        raise ResourceError(
            f"{output} needs {gigabytes(bundle)} of disk space; {gigabytes(free)} available there",
            hint=f"Free some space there, or choose another location with {option}.",
        )


def _cached(of: Shape, tokens: int, floats: bool) -> int:
    """Size of the KV cache of all layers and of partial copies as it grows, bytes."""
    width = 4 if floats else min(of.stored, 4)
    return int(1.4 * 2 * width * of.layers * of.keys * tokens)


def _activations(of: Shape) -> int:
    """Size of the activations of a batch of windows in a layer, in fp32, bytes."""
    widths = 4 * of.intermediate + 3 * of.hidden
    return 4 * AT_A_TIME * WINDOW * widths


def _joined(of: Shape) -> int:
    """Size of the query, key and value weights of all layers in the stored dtype, bytes."""
    return int(of.layers * of.hidden * (of.queries + 2 * of.keys) * of.stored)


def model_bytes(of: Shape, recipe: Recipe, block_size: int = 32) -> int:
    """Estimate the size of the model that a recipe builds, bytes.

    A block of codes has a scale in half precision and, unless symmetric or of 8 bits, a zero point.
    """
    tables = of.positions * of.rotary
    if recipe.name == KEEP:
        return of.codes + tables
    if recipe.algorithm is None:
        return of.floats // (2 if recipe.precision == "fp16" else 1) + tables

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
    return int(size / 8) + tables


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
