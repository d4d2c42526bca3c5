"""Spectrograms are those of transformers."""

import numpy as np
import pytest

from device_runtime.speech.log_mel import WINDOW, LogMel
from device_runtime.speech.recording import Recording
from tests.support.recordings import babble, wav


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("seconds", [0.02, 7.3, 29.995, 30, 30.005, 61.37])
def test_windows_are_those_of_transformers(bands: int, seconds: float) -> None:
    from transformers import WhisperFeatureExtractor

    recording = Recording(wav(babble(seconds, 1)))
    long = {"truncation": False, "padding": "longest"} if seconds > 30 else {}
    (expected,) = WhisperFeatureExtractor(feature_size=bands)(
        recording.read(0, len(recording)), sampling_rate=16_000, return_tensors="np", **long
    ).input_features
    mel = LogMel(recording, bands)
    assert mel.is_short is (seconds <= 30)
    for _ in mel.listen():
        pass
    for first in (0, 1500, WINDOW, 2 * WINDOW):
        if first >= expected.shape[1]:
            break
        there = expected[:, first : first + WINDOW]
        (window,) = mel.window(first)
        assert window.shape == (bands, WINDOW)
        np.testing.assert_allclose(window[:, : there.shape[1]], there, atol=1e-4)
        assert not window[:, there.shape[1] :].any()


def test_frames_are_those_of_the_recording() -> None:
    assert LogMel(Recording(wav(babble(2.5, 1))), 80).frames == 250
    assert LogMel(Recording(wav([0.1])), 80).frames == 1
