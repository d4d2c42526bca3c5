"""ONNX GenAI folders: memory needed to serve one, context length, components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.memory import kv_cache_length
from packager.genai.weight_files import model_bytes

if TYPE_CHECKING:
    from device_runtime.bundle.manifest import Component

TOKENIZER_FILES = (
    "tokenizer",
    "vocab",
    "merges",
    "chat_template",
    "additional_chat_templates",
    "special_tokens",
    "added_tokens",
)

# Resident memory beyond weights and KV cache: the program, its libraries and the activations of a
# prefill chunk. Measured with SmolLM2-135M.
BASE_BYTES = 200 << 20


def memory_bytes(folder: Path, config: dict[str, Any], tokens: int) -> int:
    """Estimate the resident memory while serving a folder, with a context of some tokens, bytes."""
    decoder = config["model"]["decoder"]
    return serving_bytes(
        model_bytes(folder),
        layers=decoder["num_hidden_layers"],
        keys=decoder["num_key_value_heads"] * decoder["head_size"],
        tokens=kv_cache_length(decoder, tokens),
        provider="cpu" if not decoder["session_options"]["provider_options"] else "other",
    )


def serving_bytes(weights: int, *, layers: int, keys: int, tokens: int, provider: str) -> int:
    """Estimate the resident memory while serving, bytes: weights, KV cache and `BASE_BYTES`.

    Args:
        weights: size of graph and weights, bytes.
        layers: number of decoder layers.
        keys: total width of the key heads; values have the same width.
        tokens: length of the KV cache, which is allocated in full.
        provider: execution provider; only on the CPU is the cache in fp32.
    """
    element = 4 if provider == "cpu" else 2
    return weights + 2 * layers * keys * tokens * element + BASE_BYTES


def component(path: str) -> Component:
    """Return the component of a bundle that a file of a model folder belongs to."""
    return "tokenizer" if path.startswith(TOKENIZER_FILES) else "model"


def context_length(config: dict[str, Any], maximum: int) -> int:
    """Return the context length, tokens: the given maximum, or the model's own limit if smaller."""
    return min(maximum, int(config["model"]["context_length"]))


def limit_context(folder: Path, maximum: int) -> None:
    """Set `max_length` to at most the profile's context length.

    The KV cache is allocated for it up front, and the model's default may need gigabytes, too much
    for a small board. Unknown fields of the configuration are preserved.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    # Applications that link ONNX Runtime GenAI themselves allocate the KV cache with this length.
    length = kv_cache_length(config["model"]["decoder"], context_length(config, maximum))
    config.setdefault("search", {})["max_length"] = length
    path.write_text(json.dumps(config, indent=4) + "\n")
