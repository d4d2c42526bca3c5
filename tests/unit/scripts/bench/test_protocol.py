"""Contestants of the bench as processes of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.bench.protocol import Contestant, ContestantError, Run
from tests.support.bench_peer import DEADLY, REFUSED

COMMAND = [sys.executable, "-m", "tests.support.bench_peer"]


@pytest.fixture
def peer() -> Iterator[Contestant]:
    with Contestant("a peer", COMMAND) as contestant:
        yield contestant


def test_contestant_loads_and_runs_whatever_its_libraries_print(peer: Contestant) -> None:
    assert peer.load(Path("model"), 512, 2) == "512 tokens, 2 threads"
    assert peer.run([1, 2, 3], 5) == Run(first_s=0.3, tokens=5, decode_s=1.0)


def test_error_is_told_and_the_contestant_goes_on(peer: Contestant) -> None:
    with pytest.raises(ContestantError, match="a peer: FileNotFoundError: missing"):
        peer.load(Path("missing"), 512, 2)
    with pytest.raises(ContestantError, match=f"a peer: ValueError: token {REFUSED}"):
        peer.run([REFUSED], 5)
    assert peer.run([1], 5).tokens == 5


def test_end_of_a_contestant_is_told(peer: Contestant) -> None:
    for _ in range(2):
        with pytest.raises(ContestantError, match="a peer ended with status 3"):
            peer.run([DEADLY], 5)


def test_process_ends_with_the_block() -> None:
    with Contestant("a peer", COMMAND) as contestant:
        process = psutil.Process(contestant.pid)
    assert not process.is_running()
