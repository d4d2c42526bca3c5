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


def memory_bytes(
    folder: Path, config: dict[str, Any], tokens: int, *, cache_bytes: int, state_bytes: int
) -> int:
    """Estimate the resident memory while serving a folder, bytes.

    Args:
        folder: ONNX GenAI folder.
        config: its genai_config.json.
        tokens: prompt and answer together.
        cache_bytes: size of the KV cache of one token.
        state_bytes: size of the states of layers that have one instead of a KV cache.
    """
    length = kv_cache_length(config["model"]["decoder"], tokens)
    return serving_bytes(model_bytes(folder) + state_bytes, cache_bytes=cache_bytes, tokens=length)


def serving_bytes(weights: int, *, cache_bytes: int, tokens: int) -> int:
    """Estimate the resident memory while serving, bytes: weights, KV cache and `BASE_BYTES`.

    Args:
        weights: size of graph and weights, bytes.
        cache_bytes: size of the KV cache of one token.
        tokens: length of the KV cache, which is allocated in full.
    """
    return weights + cache_bytes * tokens + BASE_BYTES


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
