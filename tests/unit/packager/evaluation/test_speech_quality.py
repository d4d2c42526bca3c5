"""The recordings that speech models are measured on: made, or the user's own."""

import wave
from pathlib import Path

import numpy as np
import pytest

from packager.errors import EvaluationError
from packager.evaluation import sounds
from packager.evaluation.speech_quality import prepare
from packager.jobs import recordings
from packager.jobs.recordings import RATE

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two recordings."""
    path = tmp_path / "mine"
    path.mkdir()
    for number, name in enumerate(("b.wav", "a.WAV")):
        recordings.write(path / name, np.full(RATE, 100 * number, np.int16))
    return path


def test_made_sounds_are_the_same_each_time() -> None:
    first, second = (list(sounds.drawn()) for _ in range(2))
    for (*text, samples), (*other, again) in zip(first, second, strict=True):
        assert text == other
        assert np.array_equal(samples, again)
        assert 8000 < np.abs(samples).max() < 12000
        assert RATE <= len(samples) <= 30 * RATE


def test_made_sounds_come_with_their_texts() -> None:
    path = prepare(None)
    listed = recordings.listed(path)
    assert [(one.language, one.text) for one in listed] == list(sounds.SENTENCES)
    assert np.abs(recordings.read(path / listed[0].file)).max() == pytest.approx(0.3, abs=0.02)


def test_own_recordings_are_taken_in_the_order_of_their_names(folder: Path) -> None:
    path = prepare(folder)
    listed = recordings.listed(path)
    assert [one.text for one in listed] == ["", ""]
    assert [recordings.read(path / one.file)[0] * 32768 for one in listed] == [100, 0]


def test_own_recordings_are_resampled_as_on_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "c.wav").write_bytes(other_shape(2, 3, 44100, 2))
    path = prepare(folder)
    assert len(recordings.read(path / recordings.listed(path)[2].file)) == 2 * RATE


def other_shape(channels: int, width: int, rate: int, seconds: float = 1.0) -> bytes:
    path = Path("odd.wav")
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(bytes(int(channels * width * rate * seconds)))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "c.wav: the recording is empty"),
        (lambda: b"ID3 an MP3", "is a file of type MP3"),
        (lambda: other_shape(2, 2, 44100, 31), "is 31.0 seconds long"),
        (lambda: other_shape(1, 2, RATE, 0), "c.wav: the recording is empty"),
    ],
)
def test_recording_that_cannot_be_used_is_refused(
    folder: Path, content: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert callable(content)
    (folder / "c.wav").write_bytes(content())
    with pytest.raises(EvaluationError) as caught:
        prepare(folder)
    assert words in str(caught.value)
    assert caught.value.hint


def test_one_recording_is_too_few(folder: Path) -> None:
    (folder / "b.wav").unlink()
    with pytest.raises(EvaluationError, match="has 1 recordings"):
        prepare(folder)
