"""A sample of what `make soak` runs for ten minutes a target."""

import importlib
import random
import subprocess
import sys

import pytest

from tests.support.fakes import ROOT

TARGETS = ("audio", "envelope", "image", "manifest", "tar_reader", "update")


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_are_taken_or_refused(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}")
    source = random.Random(5)
    inputs = list(target.seeds())
    for data in inputs:
        target.run(data)
    for _ in range(200):
        changed = target.mutate(source.choice(inputs), source)
        target.run(changed)
        inputs.append(changed)


@pytest.mark.parametrize("name", TARGETS)
def test_some_seconds_guided_by_coverage(name: str) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for x86_64 alone")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, "--seconds", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    assert "stat::number_of_executed_units" in done.stderr
