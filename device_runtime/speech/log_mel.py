"""The spectrogram of a recording as Whisper takes it: logarithmic, in mel bands.

The numbers are those of transformers' `WhisperFeatureExtractor`. The engine's own code computes
others at the ends of a recording, and cuts what is longer than a window.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from device_runtime.speech.recording import RATE, Recording

Bands = npt.NDArray[np.float32]

HOP = 160
"""Samples between two frames."""

FRAMES_A_SECOND = RATE // HOP
WINDOW = 30 * FRAMES_A_SECOND
"""Frames of a window, which is what the model hears at once."""

_LENGTH = 400
"""Samples of a frame."""

_LEAST = 1e-10
_RANGE = 8.0
"""Decades below the loudest place of a recording that still differ from silence."""


class LogMel:
    """The spectrogram of a recording, computed window by window.

    Args:
        recording: the recording.
        bands: number of bands.

    Attributes:
        frames: frames of the recording.
        is_short: whether it fits into one window.
    """

    def __init__(self, recording: Recording, bands: int) -> None:
        self.is_short = len(recording) <= WINDOW * HOP
        self.frames = max(1, len(recording) // HOP)
        self._recording = recording
        self._filters = mel_filters(bands)
        # Silence makes a short recording as long as a window.
        self._samples = WINDOW * HOP if self.is_short else len(recording)
        self._loudest = np.float32(-np.inf)

    def listen(self) -> Iterator[None]:
        """Find the loudest place, a step a window; `window` needs it."""
        for first in range(0, self._samples // HOP, WINDOW):
            self._loudest = max(self._loudest, self._raw(first).max())
            yield

    def window(self, first: int) -> Bands:
        """Compute a window.

        Args:
            first: its first frame.

        Returns:
            Values, float32 [1, bands, WINDOW]; zeros beyond the end.
        """
        values = np.maximum(self._raw(first), self._loudest - np.float32(_RANGE))
        values = (values + np.float32(4)) / np.float32(4)
        return np.pad(values, ((0, 0), (0, WINDOW - values.shape[1])))[None]

    def _raw(self, first: int) -> Bands:
        """Compute logarithms of the energies from a frame on, [bands, frames]."""
        last = min(first + WINDOW, self._samples // HOP)
        start, stop = first * HOP - _LENGTH // 2, (last - 1) * HOP + _LENGTH // 2
        inside = max(0, start), min(stop, self._samples)
        samples = np.pad(
            self._recording.read(*inside), (inside[0] - start, stop - inside[1]), mode="reflect"
        )
        frames = np.lib.stride_tricks.sliding_window_view(samples, _LENGTH)[::HOP]
        # The last value of a Hann window that is as long as its period belongs to the next one.
        window = np.hanning(_LENGTH + 1)[:-1].astype(np.float32)
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        # A kit's NumPy has no products of matrices.
        energies: Bands = np.einsum("bf,tf->bt", self._filters, power.astype(np.float32))
        return np.log10(np.maximum(energies, np.float32(_LEAST)))


def mel_filters(bands: int) -> Bands:
    """Compute the shares of frequencies in bands, as Slaney's Auditory Toolbox does (1998).

    Args:
        bands: number of bands.

    Returns:
        Shares, float32 [bands, frequencies].
    """
    edges = _hertz(np.linspace(0, _mel(RATE / 2), bands + 2))
    frequencies = np.linspace(0, RATE / 2, _LENGTH // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[:, None] - frequencies
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    shares = np.maximum(0, np.minimum(rising, falling))
    return (shares * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


_LINEAR_TO = 1000.0
"""Frequency up to which the scale is linear, 15 mel, Hz."""
_STEP = np.log(6.4) / 27
"""Logarithmic step of a mel above it."""


def _mel(frequency: float) -> float:
    return 15 + float(np.log(frequency / _LINEAR_TO) / _STEP)


def _hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _LINEAR_TO * np.exp(_STEP * (mel - 15))
    return np.where(mel < 15, mel * _LINEAR_TO / 15, above)
