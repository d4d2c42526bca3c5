"""Sizes of a source model, from its configuration, that determine what a build needs."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packager.models import gguf, text_model
from packager.models.source import ModelSource, check_original
from packager.weights import gguf_codes

WINDOW = 256
"""Tokens in a window of the calibration set and of the evaluation text."""


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
        positions: rows of the tables of rotary embeddings: the context length, tokens.
        rotary: size of a row of these tables in the graph in fp32, bytes.
        dtype: type of the weights there, as transformers names it.
        codes: size of the codes of a GGUF file as they would be stored, bytes; 0 for a folder.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    stored: float
    positions: int = 0
    rotary: int = 0
    dtype: str = "float32"
    codes: int = 0

    def with_context(self, tokens: int) -> "Shape":
        """Return the sizes of the model for a device with a limited context."""
        return replace(self, positions=min(self.positions, table_rows(tokens)))

    @property
    def floats(self) -> int:
        """Size of all weights in fp32, bytes."""
        return 4 * self.parameters

    @property
    def head(self) -> int:
        """Size of the head in fp32, bytes: the largest weight of small models."""
        return 4 * self.hidden * self.vocabulary

    @property
    def layer(self) -> int:
        """Size of a decoder layer in fp32, bytes."""
        mixing = self.hidden * 2 * (self.queries + self.keys)
        return 4 * (mixing + 3 * self.hidden * self.intermediate)

    @property
    def logits(self) -> int:
        """Size of the logits of a window in fp32, bytes."""
        return 4 * WINDOW * self.vocabulary


@functools.cache
def shape(source: ModelSource) -> Shape:
    """Read the sizes of a source model from its configuration.

    Raises:
        ModelSourceError: the model is ONNX.
    """
    check_original(source)
    if source.kind == "gguf":
        header = gguf.read(source.path)
        metadata = header.metadata
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
        bits = (gguf_codes.stored_bits(name) * count for name, count in header.types.items())
        codes = int(sum(bits) / 8)
    else:
        config = text_model.text_config(source.path)
        tensors = text_model.tensors(source.path, source.architecture)
        stored = sum(tensor.size for tensor, text in tensors if text) / source.parameters
        if source.quantization:
            stored = 2.0  # decoded to bf16
        codes = 0
    sizes = shape_of(config, parameters=source.parameters, stored=stored)
    return replace(sizes, codes=codes)


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
        positions=size("max_position_embeddings", 0),
        rotary=tables * 4 * head,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
    )


def table_rows(context_length: int) -> int:
    """Return how many positions a graph has tables for: those that a device uses, or that checking
    and measuring the model take."""
    return max(context_length, 2 * WINDOW)
