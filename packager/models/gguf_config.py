"""Metadata of GGUF files that transformers' own reader drops, as fields of its configurations.

Its reader (`GGUF_CONFIG_MAPPING`) takes sizes, and for the rest leaves the defaults of a family in
place. llama.cpp interprets the keys in src/llama-model.cpp and src/models/*.cpp, where absent keys
have the values below. `gguf_rope` reads the scaling of positions.
"""

from typing import Any

from packager.errors import ModelSourceError
from packager.models.gguf import GgufFile

FIELDS = {
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "gemma3": {"final_logit_softcapping": "final_logit_softcapping"},
    "gpt-oss": {"attention.sliding_window": "sliding_window", "attention.key_length": "head_dim"},
    "llama": {"attention.key_length": "head_dim"},
    "mistral": {"attention.key_length": "head_dim"},
    "nemotron": {
        "attention.key_length": "head_dim",
        "attention.layer_norm_epsilon": "norm_eps",
    },
    # llama.cpp itself leaves the window out; the original model has it.
    "phi3": {"attention.sliding_window": "sliding_window"},
    "qwen3": {"attention.key_length": "head_dim"},
}
"""Keys below the name of an architecture, and the fields that they become."""

_READ = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "tensor_data_layout",
    "vocab_size",
}
"""Keys that transformers reads, that are checked below, or that change nothing."""

_READ_OF = {
    "gemma2": {
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "rope.freq_base_swa",
    },
    "gemma3": {
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "rope.freq_base_swa",
    },
    "gpt-oss": {
        "attention.sliding_window_pattern",
        "expert_count",
        "expert_feed_forward_length",
        "expert_used_count",
    },
    "lfm2": {"shortconv.l_cache"},
}

_NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.causal": (1,),
    "attention.output_scale": (0, 1),
    "embedding_scale": (0, 1),
    "expert_weights_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
}
"""Values with which a key changes nothing; of all others it is 0."""

_PATTERN = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
"""Every so many layers, one attends to the whole text."""

_SIZES = ("attention.head_count", "block_count", "embedding_length")
_LARGEST_SIZE = 1 << 20

_LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose attention has another scale."""


def fields(header: GgufFile) -> dict[str, Any]:
    """Read the fields of a configuration that transformers does not read from the file.

    `partial_rotary_factor` and `rope_local_base_freq` belong into its `rope_parameters`.

    Raises:
        ModelSourceError: a key that changes the model's results is not supported.
    """
    architecture = header.architecture
    values = {
        key.removeprefix(f"{architecture}."): value
        for key, value in header.metadata.items()
        if key.startswith(f"{architecture}.")
    }
    own = FIELDS.get(architecture, {})
    known = _READ | own.keys() | _READ_OF.get(architecture, set())
    for key, value in values.items():
        used = key in known or key.startswith("rope.scaling.")
        if not used and value not in _NEUTRAL.get(key, (0,)):
            raise _not_supported(f"{architecture}.{key} = {value}")
    for key in _SIZES:
        value = values.get(key)
        if not isinstance(value, int) or not 0 < value <= _LARGEST_SIZE:
            raise _not_supported(f"{architecture}.{key} = {value}")
    read = {field: values[key] for key, field in own.items() if key in values}
    if read.get("sliding_window") == 0:
        read["sliding_window"] = None
    read |= _head(architecture, values)
    if architecture in _PATTERN:
        read |= _windows(architecture, values)
    return read


def _head(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """Read the size of a head, and how much of it is rotated."""
    usual = values["embedding_length"] // values["attention.head_count"]
    size = values.get("attention.key_length") or usual
    # Without the key, transformers takes the rotated part of these for the whole.
    if architecture in ("llama", "mistral") and "rope.dimension_count" in values:
        size = values.get("attention.key_length") or values["rope.dimension_count"]
    rotated = values.get("rope.dimension_count", size)
    if values.get("attention.value_length", size) != size:
        raise _not_supported(f"{architecture}.attention.value_length, which is not the key's")
    if architecture in ("phi3", "nemotron"):
        return {"partial_rotary_factor": rotated / size}
    if rotated != size:
        raise _not_supported(f"{architecture}.rope.dimension_count = {rotated} of {size}")
    if size != usual and architecture in ("qwen2", "lfm2"):
        raise _not_supported(f"{architecture}.attention.key_length = {size} instead of {usual}")
    if architecture in _LARGEST:
        largest = values["block_count"] == _LARGEST[architecture]
        return {"query_pre_attn_scalar": usual if largest else size}
    return {}


def _windows(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """Read which layers have a sliding window, and the base of their rotary frequencies."""
    layers = values["block_count"]
    pattern = values.get("attention.sliding_window_pattern", _PATTERN[architecture])
    if architecture == "gemma3" and not values.get("attention.sliding_window"):
        pattern = 1
    if isinstance(pattern, int):
        pattern = [pattern == 0 or (layer + 1) % pattern != 0 for layer in range(layers)]
    if len(pattern) != layers:
        raise _not_supported(f"{architecture}.attention.sliding_window_pattern of another length")
    kinds = ["sliding_attention" if window else "full_attention" for window in pattern]
    read: dict[str, Any] = {"layer_types": kinds}
    base = values.get("rope.freq_base_swa")
    if architecture == "gemma3" and base is not None:
        read["rope_local_base_freq"] = base
    elif base not in (None, values.get("rope.freq_base", 10000.0)):
        raise _not_supported(f"{architecture}.rope.freq_base_swa = {base}")
    return read


def _not_supported(what: str) -> ModelSourceError:
    return ModelSourceError(
        f"the GGUF file has a setting that is not supported: {what}",
        hint="Use the model's Hugging Face folder.",
    )
