"""What a build will take: memory and disk. Said before it starts, refused if they are not there.

A forecast is the sum of what a step holds at once: weights in the form that it wants them in, the
key-value cache, the activations of what goes through the model together. The factors were fitted to
measured peaks of anonymous memory, for SmolLM2-135M and models of Phi-3.5-mini's shape with 4 and
32 layers; `python -m scripts.build_memory` compares. Mapped files are not counted: the kernel drops
their pages when it needs the memory.
"""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass

from packager import cache, console, machine
from packager.errors import ResourceError
from packager.models import gguf
from packager.models.source import ModelSource, check_original
from packager.recipes.recipes import Recipe, usually_sensitive
from packager.units import gigabytes

WINDOW = 256
"""Tokens that go through a model together where it is calibrated and measured."""

CACHED = 1_000_000_000
"""Bytes of keys and values that the original model may hold while it writes texts."""

_PROGRAM = 200_000_000  # this process
_TORCH = 380_000_000  # a child with torch and transformers
_ONNX = 100_000_000  # a child with ONNX Runtime


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model that determine what a build takes.

    Attributes:
        parameters: number of weights.
        layers: of the decoder.
        hidden: width between the layers.
        intermediate: width inside the MLP.
        queries: width of all query heads together.
        keys: width of all key heads together; values are as wide.
        vocabulary: number of tokens.
        stored: bytes of a weight in the Hugging Face folder.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    stored: float

    @property
    def floats(self) -> int:
        """All weights in fp32, bytes."""
        return 4 * self.parameters

    @property
    def head(self) -> int:
        """The head in fp32, bytes: in small models the largest weight."""
        return 4 * self.hidden * self.vocabulary

    @property
    def logits(self) -> int:
        """The logits of a window in fp32, bytes."""
        return 4 * WINDOW * self.vocabulary


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a piece of work takes: memory at its peak, and disk, in bytes."""

    memory: int
    disk: int

    def then(self, *others: "Need") -> "Need":
        """This and other work, one after the other."""
        every = (self, *others)
        return Need(memory=max(one.memory for one in every), disk=sum(one.disk for one in every))


@functools.cache
def shape(source: ModelSource) -> Shape:
    """The sizes of an original model, from its configuration.

    Raises:
        ModelSourceError: it is ONNX.
    """
    check_original(source)
    if source.kind == "gguf":
        found = gguf.read(source.path).metadata
        prefix = found["general.architecture"]
        config = {
            ours: found.get(f"{prefix}.{theirs}")
            for ours, theirs in {
                "num_hidden_layers": "block_count",
                "hidden_size": "embedding_length",
                "intermediate_size": "feed_forward_length",
                "num_attention_heads": "attention.head_count",
                "num_key_value_heads": "attention.head_count_kv",
                "head_dim": "attention.key_length",
            }.items()
        }
        config["vocab_size"] = found["tokenizer.ggml.tokens"]
        stored = 4.0  # transformers makes fp32 of it
    else:
        config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
        files = source.path.glob("*.safetensors")
        stored = sum(path.stat().st_size for path in files) / source.parameters

    def size(name: str, usual: int) -> int:
        """A number of the configuration; what is usual if it is left to a default."""
        found = config.get(name)
        return found if isinstance(found, int) and found > 0 else usual

    hidden, heads = size("hidden_size", 4096), size("num_attention_heads", 32)
    head = size("head_dim", hidden // heads)
    return Shape(
        parameters=source.parameters,
        layers=size("num_hidden_layers", 32),
        hidden=hidden,
        intermediate=size("intermediate_size", 4 * hidden),
        queries=heads * head,
        keys=size("num_key_value_heads", heads) * head,
        vocabulary=size("vocab_size", 128_000),
        stored=stored,
    )


def at_once(of: Shape, texts: int, tokens: int) -> int:
    """How many of some texts, of so many tokens in all, the original model may write at once."""
    return max(1, min(texts, int(texts * CACHED / _cached(of, tokens))))


def asking(of: Shape, *, written: int, read: int, floats: bool) -> Need:
    """Ask the original model.

    Args:
        of: the model.
        written: tokens that it writes.
        read: windows that it reads, whose logits are kept.
        floats: in fp32; else in the type that it is stored in, mapped from its file.
    """
    weights = of.floats if floats and of.stored < 4 else 0
    work = max(min(_cached(of, written), CACHED), 2 * of.logits)
    return Need(memory=_PROGRAM + _TORCH + weights + work, disk=read * of.logits // 2)


def converting(of: Shape) -> Need:
    """Write the model as a Hugging Face folder in fp32: from GGUF, or with an adapter merged."""
    return Need(memory=_PROGRAM + _TORCH + of.floats, disk=of.floats)


def building(of: Shape, recipe: Recipe, *, windows: int, twice: bool) -> Need:
    """Build with a recipe, run and measure the result, and write the bundle.

    Args:
        of: the original model.
        recipe: how to quantize.
        windows: to calibrate with.
        twice: for another execution provider too, to be measured.
    """
    model = _model_bytes(of, recipe)
    steps = [
        # The model builder keeps query, key and value joined; the pass, what it has quantized.
        _TORCH + _joined(of) + model + 3 * of.head // 4,
        _ONNX + 6 * model // 5 + 3 * of.logits,
    ]
    disk = (3 if twice else 2) * model
    if recipe.calibrated:
        hidden = 4 * windows * WINDOW * of.hidden
        steps.append(_TORCH + 3 * hidden + 9 * of.head)
        disk += int(1.2 * of.parameters)  # a byte for each code, and the scales
        if recipe.sensitive:
            # All that is needed to differentiate: outputs of each linear layer, attention.
            kept = 4 * WINDOW * of.layers * (6 * of.intermediate + 8 * of.hidden + 8 * of.queries)
            steps.append(_TORCH + of.floats + 10 * of.logits + kept)
    return Need(memory=_PROGRAM + max(steps), disk=disk)


def announce(needs: Iterable[Need]) -> None:
    """Say what the whole build takes at the most."""
    whole = Need(memory=0, disk=0).then(*needs)
    console.note(
        f"takes up to {gigabytes(whole.memory)} of memory and {gigabytes(whole.disk)} of disk, "
        f"less where the cache has it; {gigabytes(machine.memory_available())} and "
        f"{gigabytes(machine.disk_free(cache.root()))} are free"
    )


def check(need: Need, what: str) -> None:
    """Refuse work that this machine has not the memory or the disk for.

    Args:
        need: what it takes.
        what: the work, for the message.

    Raises:
        ResourceError: says what is missing.
    """
    memory, disk = machine.memory_available(), machine.disk_free(cache.root())
    if need.memory > memory:
        raise ResourceError(
            f"{what} takes {gigabytes(need.memory)} of memory, and {gigabytes(memory)} are "
            "available",
            hint="Close other programs, build on a larger machine, or take a smaller model or a "
            "recipe that takes less: int4-rtn takes least.",
        )
    if need.disk > disk:
        raise ResourceError(
            f"{what} takes {gigabytes(need.disk)} of disk, and {gigabytes(disk)} are free where "
            f"{cache.root()} is",
            hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
        )


def _cached(of: Shape, tokens: int) -> int:
    """Keys and values of all layers in fp32, and a part of them again as they grow, bytes."""
    return int(1.4 * 2 * 4 * of.layers * of.keys * tokens)


def _joined(of: Shape) -> int:
    """Queries, keys and values of all layers as they are stored, bytes."""
    return int(of.layers * of.hidden * (of.queries + 2 * of.keys) * of.stored)


def _model_bytes(of: Shape, recipe: Recipe) -> int:
    """Size of the model that a recipe gives.

    A block of 32 codes has a scale in fp32 and perhaps a zero point.
    """
    if recipe.algorithm is None:
        return of.floats // (2 if recipe.precision == "fp16" else 1)
    outer = min(of.head // 4, of.parameters)  # head and embedding, taken as one weight
    body = of.parameters - outer
    share = _sensitive_share(of, recipe)
    bits = body * (recipe.body_bits + share * (8 - recipe.body_bits))
    bits += outer * max(recipe.head_bits, recipe.embedding_bits)
    return int(bits / 8 + of.parameters * 4 / 32)


def _sensitive_share(of: Shape, recipe: Recipe) -> float:
    """Part of the body's weights that a recipe gives 8 bits."""
    if not isinstance(recipe.sensitive, str):
        return recipe.sensitive
    mlp = of.hidden * of.intermediate
    # A decoder layer of Llama's form, as the graph has it.
    layer = {
        "self_attn.qkv_proj": of.hidden * (of.queries + 2 * of.keys),
        "self_attn.o_proj": of.hidden * of.queries,
        "mlp.gate_proj": mlp,
        "mlp.up_proj": mlp,
        "mlp.down_proj": mlp,
    }
    names = (name.partition(".")[2] for name in usually_sensitive(of.layers))
    return sum(layer.get(name, 0) for name in names) / (of.layers * sum(layer.values()))
