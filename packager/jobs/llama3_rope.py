"""RoPE scaling of Llama 3.1 and later, recovered from the tensor that a GGUF file stores."""

from typing import TYPE_CHECKING, Any

from packager.jobs.job import JobRefusedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIVISORS = "rope_freqs.weight"
"""Name of the tensor whose elements divide the rotary frequencies."""

_ORIGINALS = (8192, *(1 << power for power in range(4, 21)))
_LOW, _HIGH = 1.0, 4.0


def parameters(divisors: "NDArray[np.float32]", theta: float) -> dict[str, Any]:
    """Find the parameters of Llama 3's scaling that give the divisors; empty for divisors of 1.

    The formula is that of transformers' `rope_type` llama3; llama.cpp's converter computes the
    divisors with it and does not store the parameters.

    Args:
        divisors: divisors of the frequencies, float32 `[half of the rotary size]`.
        theta: base of the rotary frequencies.

    Raises:
        JobRefusedError: no parameters give these divisors.
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
    raise JobRefusedError(
        f"the RoPE scaling of the GGUF file is not supported: the tensor {DIVISORS} does not have "
        "the form of Llama 3's",
        hint="Use the model's Hugging Face folder.",
    )
