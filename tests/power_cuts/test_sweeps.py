"""Samples of the sweeps over the moments of a change; `make soak` runs them whole."""

import platform

import pytest

from tests.power_cuts import sweeps
from tests.power_cuts.scenarios import SCENARIOS

traced = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of system calls are those of x86-64"
)


@traced
@pytest.mark.parametrize("name", SCENARIOS)
def test_device_that_is_killed_anywhere_starts_and_converges(name: str) -> None:
    assert sweeps.kill(name, 8) >= 3


@pytest.mark.parametrize("name", SCENARIOS)
def test_device_that_loses_all_that_was_not_flushed_starts_and_converges(name: str) -> None:
    assert sweeps.lose(name, 8) >= 4


@traced
@pytest.mark.parametrize("name", SCENARIOS)
def test_error_of_the_disk_is_reported_and_loses_nothing(name: str) -> None:
    assert sweeps.fail(name, 12) == 12
