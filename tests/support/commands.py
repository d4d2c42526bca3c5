"""Run the two programs as a user does: in a process of their own, looking at what they print."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.jobs.harness import OFFLINE


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


def edgepack(*arguments: str | Path, cache: Path | None = None, cwd: Path | None = None) -> Outcome:
    """Run the host's command line, with a cache of its own if one is given."""
    return _run("packager", arguments, cache, cwd)


def edgepack_quickly(*arguments: str | Path, cache: Path | None = None) -> Outcome:
    """The same for builds of tiny models, of which only the result matters; see `quickly`."""
    return _run("tests.support.quickly", arguments, cache, None, OFFLINE)


def edgepack_runtime(*arguments: str | Path) -> Outcome:
    """Run the device's command line, from source."""
    return _run("device_runtime", arguments, None, None)


def environment(cache: Path | None = None) -> dict[str, str]:
    """The environment for a program under test."""
    extra = {"EDGEPACK_CACHE": str(cache)} if cache else {}
    return {**os.environ, "COLUMNS": "200", **extra}


def _run(
    module: str,
    arguments: tuple[str | Path, ...],
    cache: Path | None,
    cwd: Path | None,
    variables: Mapping[str, str] = {},
) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", module, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**environment(cache), **variables},
        stdin=subprocess.DEVNULL,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def refused(outcome: Outcome, status: int, *words: str) -> None:
    """The command ended with a clear error: its code, the words, a hint, no traceback."""
    assert outcome.status == status, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert "error:" in outcome.err
    assert "hint:" in outcome.err, outcome.err
    assert "Traceback" not in outcome.err


def make_offline(module: str, *arguments: str | Path) -> None:
    """Run a module that makes things for tests, without the network; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
