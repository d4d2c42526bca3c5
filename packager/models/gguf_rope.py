"""RoPE scaling of a GGUF file, as transformers names its parameters.

transformers' own GGUF reader drops it. llama.cpp interprets these keys and tensors in its
src/llama-model.cpp (`rope.scaling.*`, `rope_freqs.weight`) and in ggml's rope operator; its linear
and YaRN scaling compute the same as transformers'.
"""

from typing import Any

from packager.errors import ModelSourceError
from packager.jobs.llama3_rope import DIVISORS
from packager.models.gguf import GgufFile

_LONGROPE = ("rope_factors_long.weight", "rope_factors_short.weight")
_KNOWN = ("type", "factor", "original_context_length", "finetuned")


def scaling(header: GgufFile) -> dict[str, Any]:
    """Read the scaling as fields of transformers' `rope_parameters`; empty without scaling.

    Raises:
        ModelSourceError: this kind of scaling is not supported.
    """
    prefix = f"{header.architecture}.rope."
    values = {
        key.removeprefix(f"{prefix}scaling."): value
        for key, value in header.metadata.items()
        if key.startswith(f"{prefix}scaling.")
    }
    # Defaults as in llama.cpp: the type is linear; without a factor there is no scaling.
    kind = str(values.get("type", "linear"))
    factor = float(values.get("factor") or header.metadata.get(f"{prefix}scale_linear") or 1)
    longrope = [name for name in _LONGROPE if name in header.tensors]
    if longrope:
        raise _not_supported(f"the tensor {longrope[0]} (LongRoPE)")
    if kind == "none" or (kind == "linear" and factor == 1):
        return {}
    if DIVISORS in header.tensors:
        raise _not_supported(f"{prefix}scaling.type {kind} together with {DIVISORS}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    unknown = sorted(values.keys() - set(_KNOWN))
    if kind != "yarn" or unknown:
        key = f"{prefix}scaling.{unknown[0]}" if kind == "yarn" else f"{prefix}scaling.type {kind}"
        raise _not_supported(key)
    original = values.get("original_context_length")
    original = original or header.metadata[f"{header.architecture}.context_length"]
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(original),
    }


def _not_supported(what: str) -> ModelSourceError:
    return ModelSourceError(
        f"the RoPE scaling of the GGUF file is not supported: {what}",
        hint="Use the model's Hugging Face folder.",
    )
