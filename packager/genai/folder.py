"""An ONNX GenAI folder: what serving it takes, its context length, its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.memory import kv_cache_length

if TYPE_CHECKING:
    from device_runtime.bundle.manifest import Component

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


def memory_bytes(folder: Path, config: dict[str, Any], tokens: int) -> int:
    """Estimate of the resident memory while serving, bytes.

    Weights, plus the KV cache that ONNX Runtime GenAI allocates in full for `max_length` tokens
    or a sliding window (keys and values, each layers x KV heads x head size), plus `BASE_BYTES`.
    """
    decoder = config["model"]["decoder"]
    weights = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    element = 4 if not decoder["session_options"]["provider_options"] else 2
    cache_bytes: int = (
        2
        * decoder["num_hidden_layers"]
        * decoder["num_key_value_heads"]
        * decoder["head_size"]
        * kv_cache_length(decoder, tokens)
        * element
    )
    return weights + cache_bytes + BASE_BYTES


def component(path: str) -> Component:
    """Which part of a bundle a file of a model folder belongs to."""
    return "tokenizer" if path.startswith(TOKENIZER_FILES) else "model"


def context_length(config: dict[str, Any], wanted: int) -> int:
    """Tokens of prompt and answer together: those wanted, or the model's own limit if smaller."""
    return min(wanted, int(config["model"]["context_length"]))


def limit_context(folder: Path, wanted: int) -> None:
    """Make `max_length` the profile's: the KV cache is allocated for it up front.

    The model's own default may demand gigabytes of a small board. Some folders carry more fields
    than we know; they are kept.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    # An application that links ONNX Runtime GenAI itself opens its KV cache with this length.
    length = kv_cache_length(config["model"]["decoder"], context_length(config, wanted))
    config.setdefault("search", {})["max_length"] = length
    path.write_text(json.dumps(config, indent=4) + "\n")
