"""Statistics of requests, and what is read from the system."""

import os

from device_runtime.inference.engine import Usage
from device_runtime.status.report import Outcome, RequestStats, Series, resident_bytes


def usage(first_token_s: float, tokens: int) -> Usage:
    return Usage(
        prompt_tokens=1, completion_tokens=tokens, first_token_s=first_token_s, decode_s=1.0
    )


def test_stats_count_and_average() -> None:
    stats = RequestStats()
    for took in (usage(1.0, 11), usage(2.0, 1)):
        stats.measure(took)
        stats.count(Outcome.COMPLETED)
    for outcome in (Outcome.REJECTED, Outcome.FAILED, Outcome.CANCELLED):
        stats.count(outcome)
    requests, tokens_per_s, first_token_s = stats.snapshot()
    assert (requests.completed, requests.rejected) == (2, 1)
    assert (requests.failed, requests.cancelled) == (1, 1)
    assert (tokens_per_s.last, tokens_per_s.average) == (10.0, 10.0)
    assert (first_token_s.last, first_token_s.average) == (2.0, 1.2)


def test_snapshot_does_not_change_afterwards() -> None:
    stats = RequestStats()
    requests, _, _ = stats.snapshot()
    stats.count(Outcome.FAILED)
    assert requests.failed == 0


def test_resident_memory() -> None:
    assert resident_bytes(os.getpid()) > 1 << 20
    assert resident_bytes(None) == 0
    assert resident_bytes(2**30) == 0


def test_figures_of_a_series() -> None:
    series = Series()
    assert series.figure().p50 is None
    for value in range(1, 101):
        series.add(value)
    figure = series.figure()
    assert (figure.last, figure.p50, figure.p95) == (100, 51, 95)
    for _ in range(1000):
        series.add(7.0)
    assert (series.figure().p50, series.figure().p95) == (7, 7)
