"""ONNX GenAI folders: memory needed to serve one, context length, components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.memory import PROMPT_STEP, kv_cache_length
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

BASE_BYTES = 146 << 20
"""Resident memory of the program and its libraries: what SmolLM2-135M takes, without its weights,
KV cache, tokenizer and logits."""

TOKENIZER_FACTOR = 9
"""Memory of a loaded tokenizer, relative to the size of its tokenizer.json: 8.4 (Llama 3.1, 128,256
tokens, 137 MiB) to 9.1 (Llama 2, SmolLM2), 8.8 for Gemma 3 (262,145 tokens, 279 MiB). From

    import psutil; from pathlib import Path
    from device_runtime.tokenizer.tokenizer import Tokenizer
    rss = lambda: psutil.Process().memory_info().rss
    before = rss(); tokenizer = Tokenizer(Path(FOLDER)); print(rss() - before)
"""

TOKENIZER_BYTES = 130
"""Size of tokenizer.json for a token of the vocabulary; 72 (SmolLM2) to 139 (gpt-oss)."""


def memory_bytes(
    folder: Path,
    config: dict[str, Any],
    tokens: int,
    *,
    cache_bytes: int,
    state_bytes: int,
    all_logits: bool = False,
) -> int:
    """Estimate the resident memory while serving a folder, bytes.

    Args:
        folder: ONNX GenAI folder.
        config: its genai_config.json.
        tokens: prompt and answer together.
        cache_bytes: size of the KV cache of one token.
        state_bytes: size of the states of layers that have one instead of a KV cache.
        all_logits: the graph computes the logits of all tokens of a prefill chunk.
    """
    return serving_bytes(
        model_bytes(folder) + state_bytes,
        cache_bytes=cache_bytes,
        tokens=kv_cache_length(config["model"]["decoder"], tokens),
        vocabulary=config["model"].get("vocab_size", 0),
        tokenizer=(folder / "tokenizer.json").stat().st_size,
        rows=PROMPT_STEP if all_logits else 1,
    )


def serving_bytes(
    weights: int,
    *,
    cache_bytes: int,
    tokens: int,
    vocabulary: int,
    tokenizer: int | None = None,
    rows: int = 1,
) -> int:
    """Estimate the resident memory while serving, bytes.

    Args:
        weights: size of graph and weights, bytes.
        cache_bytes: size of the KV cache of one token.
        tokens: length of the KV cache, which is allocated in full.
        vocabulary: number of tokens that the model knows.
        tokenizer: size of tokenizer.json, bytes; None if it is not known yet.
        rows: tokens whose logits the graph computes at a time, in fp32.
    """
    if tokenizer is None:
        tokenizer = TOKENIZER_BYTES * vocabulary
    logits = 4 * rows * vocabulary
    return weights + cache_bytes * tokens + TOKENIZER_FACTOR * tokenizer + logits + BASE_BYTES


def image_bytes(*, patches: int, hidden: int, intermediate: int, tokens: int, width: int) -> int:
    """Estimate the memory that an answer about an image takes beyond one about text, bytes.

    The vision graph runs on all patches at once, and so does the decoder on all tokens of the
    prompt. A prompt of 1,930 tokens with an image of 13 crops took 1.1 GB beyond weights and KV
    cache in the shape of Phi-3.5-vision, 0.25 of it for logits of all tokens; this gives 0.82.

    Args:
        patches: patches of the image, or of all its crops.
        hidden: width of the vision graph's hidden states.
        intermediate: width of its MLP's activations.
        tokens: tokens of the image in the prompt.
        width: width of the text model's activations: the sum of those that are held at a time.
    """
    seeing = patches * (4 * hidden + 2 * intermediate)
    return 4 * (seeing + tokens * width)


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
    path.write_text(json.dumps(config, indent=4) + "\n", newline="\n")
