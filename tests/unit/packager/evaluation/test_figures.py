"""The figures of an evaluation, against direct computation."""

import math

import numpy as np
import pytest

from packager.evaluation import evaluate, tasks
from packager.jobs.divergence import WindowMeans, compare, divergence, interval, log_softmax


def test_divergence_is_that_of_torch() -> None:
    import torch

    generator = np.random.default_rng(0)
    p, q = generator.normal(0, 3, (2, 5, 1000)).astype(np.float32)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(torch.from_numpy(q).double(), -1),
        torch.log_softmax(torch.from_numpy(p).double(), -1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    found = divergence(log_softmax(p), log_softmax(q))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)
    assert (found > 0).all()


def test_divergence_is_not_symmetric_and_is_that_from_the_reference() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    reference = np.array([half, half], np.float32)
    candidate = np.array([quarter, math.log(0.75)], np.float32)
    expected = 0.5 * (half - quarter) + 0.5 * (half - math.log(0.75))
    assert divergence(reference, candidate) == pytest.approx(expected)


def test_a_token_that_the_reference_rules_out_adds_nothing() -> None:
    reference = np.array([0.0, -np.inf], np.float32)
    assert divergence(reference, log_softmax(np.zeros(2, np.float32))) == pytest.approx(math.log(2))
    assert divergence(reference, reference) == 0


def test_half_precision_of_the_reference_hardly_matters() -> None:
    generator = np.random.default_rng(0)
    # Peaked, as a language model is: most tokens have next to no probability.
    p = log_softmax(generator.gumbel(0, 3, (255, 20_000)).astype(np.float32))
    q = p + generator.normal(0, 0.3, p.shape).astype(np.float32)
    following = np.zeros(255, np.int64)
    found = compare(q, p.astype(np.float16), p.argmax(-1), following)
    exact = divergence(p, log_softmax(q))
    assert found["kl"].mean() == pytest.approx(exact.mean(), abs=2e-5)
    # Nothing at all is lost where the models are the same.
    assert compare(p, p.astype(np.float16), p.argmax(-1), following)["kl"].mean() < 1e-6


def test_perplexity_is_of_the_tokens_that_follow() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    found = compare(logits, logits.astype(np.float16), np.array([0, 1]), np.array([1, 2]))
    np.testing.assert_allclose(np.exp(-found["nll"]), [0.25, 0.8], rtol=1e-5)
    np.testing.assert_allclose(np.exp(-found["reference_nll"]), [0.25, 0.8], rtol=1e-3)
    assert found["top1"].tolist() == [True, False]


def test_interval_contains_the_mean_and_shrinks_with_more_windows() -> None:
    few, many = [0.1, 0.3, 0.2], [0.1, 0.3, 0.2] * 4
    assert interval([0.0, 1.0]) == pytest.approx((0.5 - 6.353, 0.5 + 6.353), abs=1e-3)
    low, high = interval(few)
    lower, higher = interval(many)
    assert low < lower < 0.2 < higher < high


@pytest.mark.parametrize("windows", [2, 3, 6, 12])
def test_interval_holds_the_truth_95_times_in_100(windows: int) -> None:
    generator = np.random.default_rng(windows)
    held = 0
    for _ in range(4000):
        low, high = interval(generator.normal(1.0, 0.2, windows).tolist())
        held += low < 1.0 < high
    assert 0.94 < held / 4000 < 0.96


def test_intervals_stay_within_what_is_possible() -> None:
    found = evaluate.quality(
        WindowMeans(
            kl=(0.0, 0.1),
            top1=(1.0, 0.9),
            nll=(1.0, 2.0),
            reference_nll=(1.0, 1.0),
            tokens=510,
            kl_tail=1.5,
            kl_max=2.5,
        ),
        tasks.count([]),
    )
    assert found.kl_interval[0] == 0
    assert found.top1_interval[1] == 1
    assert found.perplexity == pytest.approx(math.exp(1.5))
    assert found.reference_perplexity == pytest.approx(math.e)
    assert found.tokens == 510
    assert (found.kl_tail, found.kl_max) == (1.5, 2.5)
