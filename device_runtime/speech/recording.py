"""A recording as a speech model takes it: one channel, 16,000 samples a second.

Samples are converted as they are read, so a recording takes no memory but that of its file.
"""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from device_runtime.speech.transcription import AudioError
from device_runtime.speech.wav_file import read_wav

Samples = npt.NDArray[np.float32]

RATE = 16_000
"""Samples a second."""

MAX_BYTES = 128 << 20
"""Largest file: more than an hour of 16 bits in one channel at `RATE`."""

MAX_MINUTES = 60

_SHORTER = "Split the recording."

_MAX_DOWN = 6_000
"""Bound on the work for odd rates, such as 44,099 Hz: the ratio is taken from fractions with this
denominator at most."""

_CROSSINGS = 40
_CUTOFF = 0.94
_BETA = 7.857
"""The filter: a sinc, cut after so many zero crossings on each side by a Kaiser window of 80 dB (J.
F. Kaiser, 1974). It passes 0.87 of the lower of both bandwidths, and stops from all of it."""


class Recording:
    """A recording.

    Attributes:
        seconds: its length.

    Args:
        data: a WAV file.

    Raises:
        AudioError: the file cannot be read, or the recording is too long.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise AudioError(
                f"the recording has {len(data) >> 20} MiB; at most {MAX_BYTES >> 20} are taken",
                hint=_SHORTER,
            )
        self._file = read_wav(data)
        self.seconds = len(self._file) / self._file.rate
        if self.seconds > MAX_MINUTES * 60:
            raise AudioError(
                f"the recording is {self.seconds / 60:.0f} minutes long; at most {MAX_MINUTES} are "
                "taken",
                hint=_SHORTER,
            )
        # Of `_up` samples that are read, the file has `_down`.
        ratio = Fraction(RATE, self._file.rate).limit_denominator(_MAX_DOWN)
        self._up, self._down = ratio.as_integer_ratio()

    def __len__(self) -> int:
        """Return the number of samples that can be read."""
        return max(1, len(self._file) * self._up // self._down)

    def read(self, start: int, stop: int) -> Samples:
        """Read a part.

        Args:
            start: first sample, not negative.
            stop: first sample behind it; there is silence beyond the end.

        Returns:
            Samples from -1 to 1, float32 [stop - start].
        """
        if self._up == self._down:
            return self._file.read(start, stop)
        end = max(start, min(stop, len(self)))
        return np.pad(self._resampled(start, end), (0, stop - end))

    def _resampled(self, start: int, stop: int) -> Samples:
        result = np.zeros(stop - start, np.float32)
        scale = min(1.0, self._up / self._down)
        reach = math.ceil(_CROSSINGS / scale)
        first = start * self._down // self._up - reach + 1
        source = self._file.read(first, stop * self._down // self._up + reach + 1)
        spans = np.lib.stride_tricks.sliding_window_view(source, 2 * reach)
        # Samples that are `_up` apart lie alike between those of the file, and share a filter.
        for offset in range(min(self._up, len(result))):
            place, fraction = divmod((start + offset) * self._down, self._up)
            weights = _filter(fraction / self._up, reach, _CUTOFF * scale)
            part = result[offset :: self._up]
            begin = place - reach + 1 - first
            # A kit's NumPy has no products of matrices.
            np.einsum("tw,w->t", spans[begin :: self._down][: len(part)], weights, out=part)
        return result


def _filter(fraction: float, reach: int, cutoff: float) -> Samples:
    """Compute the weights of the samples around a place.

    Args:
        fraction: distance of the place from the sample before it, in samples.
        reach: number of samples on each side.
        cutoff: where the filter cuts, as a share of the bandwidth of the samples.

    Returns:
        Weights, float32 [2 * reach].
    """
    distance = np.arange(1 - reach, reach + 1) - fraction
    window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (distance / reach) ** 2)))
    weights = np.sinc(cutoff * distance) * window
    return np.asarray(weights / weights.sum(), np.float32)
