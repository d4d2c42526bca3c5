"""Statistics of requests, and what is read from the system."""

import os
from pathlib import Path

from device_runtime.inference.engine import Usage
from device_runtime.status.report import Outcome, RequestStats, resident_bytes, temperature_c


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


def test_temperature_is_that_of_the_hottest_sensor_that_works(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, value in enumerate(["41500\n", "52250\n", "-274000\n", "broken"]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(value)
    assert temperature_c(tmp_path) == 52.25
