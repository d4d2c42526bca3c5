"""Builds that are killed, and started again: the same bundle, and nothing is done twice.

    python -m tests.support.killed_builds                        all stages, all recipes of `auto`
    python -m tests.support.killed_builds JOB STEP ARGUMENT...   edgepack, killed in one job

The second form kills edgepack when a job of the type JOB reports its progress for the STEP-th time;
with STEP 0, before it starts.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from packager import cli
from packager.jobs import harness
from tests.support import tiny_model
from tests.support.commands import environment

MOMENTS = (
    ("Write", 2),
    ("Refer", 1),
    ("BuildOnnx", 1),
    ("Check", 0),
    ("Measure", 1),
    ("AnswerPrompts", 0),
    ("Write", 2),
    ("Calibrate", 1),
    ("Differentiate", 1),
    ("Differentiate", 3),
    ("BuildOnnx", 1),
    ("TimeDecoding", 0),
)
"""Jobs and steps, in the order of a build that tries all recipes."""


def killed(name: str, step: int, arguments: list[str]) -> int:
    """Run edgepack in this process, and kill that."""
    run = harness._process

    def counted(
        job: Any, target: Any, fields: Any, log: Any, what: str, advance: Callable[[int], None]
    ) -> Any:
        left = step if type(job).__name__ == name else -1

        def count(amount: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            advance(amount)

        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(job, target, fields, log, what, count)

    harness._process = counted
    return cli.main(arguments)


def resumed(build: list[Any], cache: Path, moments: Iterable[tuple[str, int]]) -> str:
    """Kill a build at one moment after the other, each time go on, and let it end.

    Args:
        build: arguments of edgepack.
        cache: its cache.
        moments: jobs and steps; the build must get to each.

    Returns:
        The digest of the bundle.
    """
    before: dict[str, tuple[int, int]] = {}

    def check(moment: str) -> None:
        nonlocal before
        now = _files(cache)
        again = [path for path in before if now.get(path, before[path]) != before[path]]
        assert again == [], f"{moment}: done twice"
        before = now

    for name, step in moments:
        module = [sys.executable, "-m", "tests.support.killed_builds", name, str(step)]
        done = _run([*module, *build], cache)
        assert done.returncode == -signal.SIGKILL, f"{name} {step}: not reached\n{done.stderr}"
        check(f"{name} {step}")
    digest = whole(build, cache)
    check("end")
    return digest


def whole(build: list[Any], cache: Path) -> str:
    """Build a bundle and return its digest."""
    done = _run([sys.executable, "-m", "packager", *build, "--json"], cache)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


def _run(argv: list[Any], cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment(cache))


def _files(cache: Path) -> dict[str, tuple[int, int]]:
    """Return number and time of each file of a stage, finished or not, by the stage's digest.

    The hidden states of the last layer that is done take the place of those before.
    """
    files = {}
    for path in cache.glob("*/[!.]*/**/*"):
        if path.is_file() and path.name != "hidden.safetensors":
            status = path.stat()
            place = str(Path(*path.relative_to(cache).parts[1:]))
            files[place] = (status.st_ino, status.st_mtime_ns)
    return files


def main() -> None:
    """Kill a build of all recipes in each of its stages."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = folder / "all.toml"
        profile.write_text('extends = "mobile"\nname = "all"\n[limits]\nmax_kl = 0\n')
        model = tiny_model.make_hf(folder / "model")
        build = ["build", "--profile", profile, "--model", model, "--allow-quality-loss"]
        build += ["-o", folder / "model.epk"]
        expected = whole(build, folder / "cache")
        assert resumed(build, folder / "killed", MOMENTS) == expected
    print(f"killed builds {len(MOMENTS)}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(killed(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
    main()
