"""The scaling of rotary positions of Llama 3.1 and later, from what a GGUF file stores of it."""

from typing import TYPE_CHECKING, Any

from packager.jobs.job import RefusedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIVISORS = "rope_freqs.weight"
"""The tensor by whose elements the rotary frequencies are divided."""

_ORIGINALS = (8192, *(1 << power for power in range(4, 21)))
_LOW, _HIGH = 1.0, 4.0


def parameters(divisors: "NDArray[np.float32]", theta: float) -> dict[str, Any]:
    """The parameters of Llama 3's scaling that give the divisors; empty for divisors of 1.

    The formula is that of transformers' `rope_type` llama3; llama.cpp's converter has computed
    the divisors with it, and stored no parameters.

    Args:
        divisors: float32 `[half of the rotary size]`.
        theta: base of the rotary frequencies.

    Raises:
        RefusedError: no parameters give them.
    """
    import numpy as np

    if np.allclose(divisors, 1):
        return {}
    factor = float(divisors.max())
    wavelengths = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    for original in _ORIGINALS:
        share = np.clip((original / wavelengths - _LOW) / (_HIGH - _LOW), 0, 1)
        if np.allclose(divisors, 1 / ((1 - share) / factor + share), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    raise RefusedError(
        f"the GGUF file scales its positions by the tensor {DIVISORS}, which is not of Llama 3's "
        "form: not supported",
        hint="Use the model's Hugging Face folder.",
    )
