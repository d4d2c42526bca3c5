"""Writing down a recording with a model that says what it is told to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from device_runtime.inference.sampling import Scores
from device_runtime.speech.decoding import SpeechDecoding
from device_runtime.speech.recording import Recording
from device_runtime.speech.rules import SpeechTokens
from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest
from tests.support.recordings import wav

LETTERS = " abcdefghijklmnopqr"
END, START, TIME_0 = 20, 21, 30
VOCABULARY = TIME_0 + 1501


class Told:
    """A speech model with a text for each window, and a probability of silence.

    Args:
        windows: texts of the windows: letters, and times in seconds.
        silence: how likely nobody speaks.
        sure: logit of what it is told, of all others 0.
    """

    context_length = 12
    bands = 80
    special = SpeechTokens(
        start=START,
        end=END,
        no_times=TIME_0 - 1,
        languages={},
        tasks={},
        suppressed=(),
        suppressed_first=(),
        latest_first=None,
    )

    def __init__(
        self, *windows: Sequence[str | float], silence: float = 0.0, sure: float = 50.0
    ) -> None:
        self._windows = iter(windows)
        self._silence = silence
        self._sure = sure
        self.tokenizer = self

    def begin(self, features: Any, tokens: Sequence[int]) -> "Told":
        text = next(self._windows)
        self._next = iter(
            [TIME_0 + round(t * 50) if isinstance(t, float) else LETTERS.index(t) for t in text]
        )
        self._logits = np.zeros(VOCABULARY, np.float32)
        return self

    def append(self, tokens: Sequence[int]) -> None:
        self._logits = np.zeros(VOCABULARY, np.float32)
        self._logits[next(self._next, END)] = self._sure

    def logits(self) -> Scores:
        return self._logits

    def silence(self, logits: Scores) -> float:
        return self._silence

    def prompt(self, text: str) -> list[int]:
        return []

    def marks(self, language: str, task: str, *, timed: bool) -> list[int]:
        return [START if timed else TIME_0 - 1]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.push, tokens))

    def stream(self) -> "Told":
        return self

    def push(self, token: int) -> str:
        return LETTERS[token] if token < len(LETTERS) else ""


def write_down(model: Told, seconds: float, *, timed: bool = False) -> list[TranscriptionChunk]:
    recording = Recording(wav(np.full(round(seconds * 16_000), 0.1)))
    request = TranscriptionRequest(audio=b"", timestamps=timed)
    return list(SpeechDecoding(model, recording, request, lambda: False).chunks())  # type: ignore[arg-type]


def texts(chunks: list[TranscriptionChunk]) -> list[str]:
    return [chunk.text for chunk in chunks if chunk.text]


def test_text_comes_token_by_token_without_the_space_before_it() -> None:
    assert texts(write_down(Told(" a b"), 2)) == ["a", " ", "b"]


def test_text_with_times_comes_part_by_part() -> None:
    chunks = write_down(Told((0.0, *" ab", 1.0, 1.0, *" c", 2.0)), 3, timed=True)
    assert texts(chunks) == ["ab", " c"]
    (segments,) = [chunk.segments for chunk in chunks if chunk.segments]
    assert [(s.start, s.end, s.text, s.seek) for s in segments] == [
        (0, 1, " ab", 0),
        (1, 2, " c", 0),
    ]


def test_unfinished_part_is_heard_again_in_the_next_window() -> None:
    windows = (0.0, *"ab", 20.0, 20.0, "c"), (0.0, *" cd", 9.0)
    chunks = write_down(Told(*windows), 31, timed=True)
    assert "".join(texts(chunks)) == "ab cd"
    segments = [segment for chunk in chunks for segment in chunk.segments]
    assert [(s.start, s.end, s.seek) for s in segments] == [(0, 20, 0), (20, 29, 2000)]


def test_silence_is_skipped_whatever_was_written() -> None:
    silent = Told("abc", silence=0.9, sure=1.0)
    assert texts(write_down(silent, 2)) == []
    # Sure of its words, it was wrong about the silence.
    assert texts(write_down(Told("abc", silence=0.9), 2)) == ["abc"]


def test_parts_beyond_the_end_are_not_heard() -> None:
    text = (0.0, "a", 2.5, 4.0, "b", 5.0)
    chunks = write_down(Told(text), 2, timed=True)
    assert texts(chunks) == ["a"]
    (segment,) = [segment for chunk in chunks for segment in chunk.segments]
    assert segment.end == 2


def test_endless_repetition_ends_with_the_context() -> None:
    chunks = write_down(Told("a" * 100), 2)
    usage = chunks[-1].usage
    assert usage is not None
    assert len("".join(texts(chunks))) == usage.completion_tokens == Told.context_length - 2


def test_average_is_of_all_tokens_with_the_one_that_ends() -> None:
    chunks = write_down(Told((0.0, "a", 1.0), sure=10.0), 2, timed=True)
    (segment,) = [segment for chunk in chunks for segment in chunk.segments]
    # Where a time may follow, it has to stand out among about 1,500.
    choices = [1500, 28, 1450, 1458]
    expected = -np.log1p(np.array(choices) * np.exp(-10)).mean()
    assert segment.avg_logprob == pytest.approx(expected, rel=0.02)
