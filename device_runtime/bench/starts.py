"""Starts of new processes, each to the first token of one answer."""

import json
import subprocess
from collections.abc import Sequence

from device_runtime.bench import page_cache
from device_runtime.bench.measurement import Tell
from device_runtime.bench.results import Spread, Starts
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError

COLD = 0.25
"""Largest share of the files in the page cache with which a start counts as cold."""


def measure(release: Release, command: Sequence[str], rounds: int, tell: Tell) -> Starts:
    """Start a program cold and warm in turns.

    Args:
        release: the release that it runs.
        command: command of `generate`, for one token as JSON.
        rounds: number of starts of both kinds.
        tell: is told what is being done.

    Raises:
        EngineError: the program fails.
    """
    files = [
        path
        for record in release.manifest.records
        if (path := release.folder / record.path).is_file() and not path.is_symlink()
    ]
    warm: list[float] = []
    cold: list[float] = []
    shares: list[float | None] = []
    for number in range(1, rounds + 1):
        tell(f"starts {number} of {rounds}: cold, warm")
        page_cache.drop(files)
        shares.append(page_cache.cached_share(files))
        cold.append(_start(command))
        warm.append(_start(command))
    known = [share for share in shares if share is not None]
    cached_share = max(known) if len(known) == rounds else None
    warm_s = Spread.of(warm)
    assert warm_s is not None
    is_cold = cached_share is not None and cached_share <= COLD
    return Starts(
        warm_s=warm_s, cold_s=Spread.of(cold) if is_cold else None, cached_share=cached_share
    )


def _start(command: Sequence[str]) -> float:
    """Return the seconds from the start of a process to its first token."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
        raise EngineError(
            f"a new process did not answer: {reason.removeprefix('error: ')}",
            hint="edgepack-runtime doctor reports what is missing or damaged.",
        )
    seconds: float = json.loads(done.stdout)["start_to_first_token_s"]
    return seconds
