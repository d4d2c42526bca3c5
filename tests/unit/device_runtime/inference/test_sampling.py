"""Scores for the next token."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from device_runtime.inference import sampling
from device_runtime.inference.engine import GenerationRequest
from device_runtime.inference.sampling import Sampler, Scores, log_probabilities, most_likely

LOGITS: Scores = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04], np.float32))
PROMPT = np.array([0, 3], np.int32)


def sampler(index: int = 0, **options: Any) -> Sampler:
    asked = GenerationRequest(prompt="", max_tokens=1, **options)
    return Sampler(asked, PROMPT, index)


def drawn(count: int = 4000, allowed: list[int] | None = None, **options: Any) -> dict[int, float]:
    """Shares of the tokens that a greedy generator takes, which a grammar may bound."""
    one = sampler(seed=1, **{"temperature": 1.0, **options})
    found: Counter[int] = Counter()
    for _ in range(count):
        scores = one.scores(LOGITS)
        if allowed is not None:
            masked = np.full_like(scores, -np.inf)
            masked[allowed] = scores[allowed]
            scores = masked
        found[int(scores.argmax())] += 1
    return {token: times / count for token, times in found.items()}


def near(found: dict[int, float], shares: dict[int, float]) -> bool:
    """Within four standard deviations of 4,000 draws."""
    return found.keys() == shares.keys() and all(
        abs(found[token] - share) < 4 * (share * (1 - share) / 4000) ** 0.5 + 1e-9
        for token, share in shares.items()
    )


def test_greedy_needs_no_scores_of_its_own() -> None:
    assert not sampler().changes_scores
    assert not sampler(temperature=1.0, top_p=0.0).changes_scores
    assert sampler(temperature=0.1).changes_scores


def test_samples_are_of_the_softmax() -> None:
    assert near(drawn(), {0: 0.5, 1: 0.25, 2: 0.15, 3: 0.06, 4: 0.04})


def test_temperature_sharpens() -> None:
    squares = np.exp(LOGITS) ** 2
    shares = dict(enumerate((squares / squares.sum()).tolist()))
    assert near(drawn(temperature=0.5), shares)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"top_k": 2}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_k": 50}, {0: 0.5, 1: 0.25, 2: 0.15, 3: 0.06, 4: 0.04}),
        ({"top_p": 0.6}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_p": 0.3}, {0: 1.0}),
        ({"min_p": 0.2}, {0: 5 / 9, 1: 2.5 / 9, 2: 1.5 / 9}),
        ({"min_p": 1.0}, {0: 1.0}),
        ({"top_k": 3, "top_p": 0.7}, {0: 2 / 3, 1: 1 / 3}),
    ],
)
def test_truncation(options: dict[str, Any], shares: dict[int, float]) -> None:
    assert near(drawn(**options), shares)


def test_grammar_leaves_the_softmax_of_what_it_allows() -> None:
    assert near(drawn(allowed=[1, 2]), {1: 0.625, 2: 0.375})


def test_best_allowed_token_is_taken_where_truncation_allows_none() -> None:
    assert drawn(count=50, allowed=[3, 4], top_k=2) == {3: 1.0}


def test_truncation_of_a_large_vocabulary_is_exact() -> None:
    """More tokens matter here than are sorted at first."""
    logits = np.zeros(5000, np.float32)
    logits[:10] = 1e-3
    one = sampler(temperature=1.0, top_p=0.5, seed=1)
    kept = one.scores(logits) > -sampling.NEGLIGIBLE
    assert abs(int(kept.sum()) - 2500) <= 10
    assert kept[:10].all()


def test_seeds_repeat_and_each_answer_has_its_own() -> None:
    def scores(index: int, seed: int | None) -> list[float]:
        result: list[float] = sampler(index, temperature=1.0, seed=seed).scores(LOGITS).tolist()
        return result

    assert scores(0, 7) == scores(0, 7)
    assert scores(1, 7) == scores(0, 8)
    assert scores(0, -1) == scores(0, -1)
    assert scores(0, None) != scores(0, None)


def test_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = np.array([2, -2, 2, -2, 1], np.float32)
    one = sampler(repetition_penalty=2.0)
    one.add(2)
    assert one.scores(logits).tolist() == [1, -2, 1, -4, 1]


def test_frequency_and_presence_penalties_count_the_answer() -> None:
    one = sampler(frequency_penalty=0.5, presence_penalty=0.25)
    for token in (1, 1, 4):
        one.add(token)
    assert np.allclose(one.scores(LOGITS) - LOGITS, [0, -1.25, 0, 0, -0.75])


def test_bias_bans_and_forces() -> None:
    assert int(sampler(logit_bias=((0, -100.0),)).scores(LOGITS).argmax()) == 1
    assert int(sampler(logit_bias=((4, 100.0),)).scores(LOGITS).argmax()) == 4


def test_model_scores_are_left_as_they_are() -> None:
    before = json.dumps(LOGITS.tolist())
    sampler(temperature=1.0, top_k=2, repetition_penalty=2.0).scores(LOGITS)
    assert json.dumps(LOGITS.tolist()) == before


def test_log_probabilities() -> None:
    found = log_probabilities(LOGITS + np.float32(3))
    assert np.allclose(np.exp(found), [0.5, 0.25, 0.15, 0.06, 0.04], atol=1e-6)
    assert most_likely(found, 2).tolist() == [0, 1]
    assert most_likely(found, 0).tolist() == []
    assert most_likely(found, 50).tolist() == [0, 1, 2, 3, 4]
