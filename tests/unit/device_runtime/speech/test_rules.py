"""Whisper's rules, compared with those of transformers, and the parts of a window."""

from types import SimpleNamespace

import numpy as np
import pytest

from device_runtime.inference.sampling import Scores
from device_runtime.speech.parts import Part, Parts
from device_runtime.speech.rules import SpeechTokens

END, FIRST_TIME, VOCABULARY = 20, 30, 90
SPECIAL = SpeechTokens(
    start=21,
    end=END,
    no_times=FIRST_TIME - 1,
    languages={},
    tasks={},
    suppressed=[3, 21, 28],
    suppressed_first=[4, END],
    latest_first=10,
)


def of_transformers(logits: Scores, text: list[int]) -> Scores:
    import torch
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    config = SimpleNamespace(
        no_timestamps_token_id=SPECIAL.no_times,
        eos_token_id=END,
        bos_token_id=END,
        max_initial_timestamp_index=SPECIAL.latest_first,
    )
    ids, scores = torch.tensor([[21, *text]]), torch.from_numpy(logits[None])
    for rule in (
        SuppressTokensAtBeginLogitsProcessor(SPECIAL.suppressed_first, 1),
        SuppressTokensLogitsProcessor(SPECIAL.suppressed),
        WhisperTimeStampLogitsProcessor(config, begin_index=1),
    ):
        scores = rule(ids, scores)
    return scores[0].numpy()


TEXTS = {
    "empty": [],
    "a time": [32],
    "a time and words": [32, 5, 6],
    "a part": [32, 5, 6, 40],
    "a part and the next": [32, 5, 40, 40],
    "a part and a later one": [32, 5, 40, 44],
    "words of the next": [32, 5, 40, 44, 7],
    "the last time": [32, 5, VOCABULARY - 1],
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_scores_are_those_of_transformers(text: list[int]) -> None:
    source = np.random.default_rng(len(text))
    for _ in range(30):
        logits = source.standard_normal(VOCABULARY).astype(np.float32) * source.uniform(0.1, 6)
        scores = SPECIAL.scores(logits, text, timed=True)
        np.testing.assert_array_equal(scores, of_transformers(logits, text))


def test_without_times_only_suppressed_tokens_are_ruled_out() -> None:
    logits = np.zeros(VOCABULARY, np.float32)
    (out,) = np.nonzero(np.isinf(SPECIAL.scores(logits, [5], timed=False)))
    assert out.tolist() == [3, 21, 28]
    (out,) = np.nonzero(np.isinf(SPECIAL.scores(logits, [], timed=False)))
    assert out.tolist() == [3, 4, END, 21, 28]
    assert not logits.any()


def at(seconds: float) -> int:
    return FIRST_TIME + round(seconds * 50)


def parts(*tokens: int, frames: int = 3000) -> tuple[list[Part], Part | None, int]:
    window = Parts(FIRST_TIME, frames)
    pushed = [part for token in tokens if (part := window.push(token)) is not None]
    return (pushed, *window.end())


def test_part_is_certain_with_the_beginning_of_the_next() -> None:
    pushed, last, advance = parts(at(0), 5, at(1.5), at(2), 6)
    assert pushed == [Part(start=0, end=1.5, tokens=(at(0), 5, at(1.5)))]
    # What has no end is cut by the window: it is heard again.
    assert (last, advance) == (None, 150)


def test_single_time_at_the_end_ends_the_window() -> None:
    pushed, last, advance = parts(at(0), 5, at(1), at(1), 6, at(9))
    assert len(pushed) == 1
    assert last == Part(start=1, end=9, tokens=(at(1), 6, at(9)))
    assert advance == 3000


def test_window_without_pairs_is_one_part() -> None:
    for tokens, end in (((at(0), 5), 12.34), ((at(0), 5, at(7)), 7), ((), 12.34)):
        pushed, last, advance = parts(*tokens, frames=1234)
        assert not pushed
        assert last == Part(start=0, end=end, tokens=tokens)
        assert advance == 1234


def test_window_always_moves_on() -> None:
    *_, advance = parts(at(0), at(0), 5)
    assert advance == 1
