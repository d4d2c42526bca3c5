"""Measure time and memory of an INT4 build against the model builder alone:

    python -m scripts.build_memory MODEL [LIMIT_GB]

MODEL is a Hugging Face folder. Builds it with onnxruntime-genai's own builder, then with
`edgepack build --recipe int4-rtn --model-only` in a control group with LIMIT_GB of memory (default:
12; needs root), evaluated on the README's text. Prints one JSON object: wall time and peak
anonymous memory of both; for edgepack also the time of the step that builds the model, its memory
forecast, and the peak resident memory of each of its jobs. Except in that last figure, mapped files
are not counted: the kernel drops their pages under memory pressure.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packager import console

README = Path(__file__).parent.parent / "README.md"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
SAMPLE_S = 0.05


class ControlGroup:
    """A control group for one program and its children."""

    def __init__(self, limit_bytes: int | None) -> None:
        first = CONTROL_GROUPS / "memory"  # version 1, if it exists
        version_1 = first.is_dir()
        parent = first if version_1 else CONTROL_GROUPS
        self._folder = parent / f"edgepack-{os.getpid()}"
        self._folder.mkdir(exist_ok=True)
        self._anonymous = "total_rss" if version_1 else "anon"
        if limit_bytes is not None:
            limit = "memory.limit_in_bytes" if version_1 else "memory.max"
            (self._folder / limit).write_text(str(limit_bytes))

    def run(self, argv: Sequence[str | Path]) -> tuple[dict[str, Any], str]:
        """Run a program to its end; return status, time and peak memory, and its output."""
        peak, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(SAMPLE_S):
                stat = (self._folder / "memory.stat").read_text()
                counters = dict(line.split() for line in stat.splitlines())
                peak = max(peak, int(counters[self._anonymous]))

        watcher = threading.Thread(target=watch)
        started = time.monotonic()
        watcher.start()
        output = ""
        try:
            with subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0" && exec "$@"', self._folder / "cgroup.procs", *argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    output += line
                    sys.stderr.write(line)
        finally:
            ended.set()
            watcher.join()
        seconds = time.monotonic() - started
        figures = {
            "status": process.returncode,
            "wall_s": round(seconds, 1),
            "peak_anonymous_gb": round(peak / 1e9, 2),
        }
        return figures, output

    def remove(self) -> None:
        """Remove the control group; all its processes must have ended."""
        self._folder.rmdir()


def measure(
    argv: Sequence[str | Path], limit_bytes: int | None = None
) -> tuple[dict[str, Any], str]:
    """Run a program in its own control group."""
    group = ControlGroup(limit_bytes)
    try:
        return group.run(argv)
    finally:
        group.remove()


def number(pattern: str, text: str) -> float:
    """Extract a number from a program's output."""
    match = re.search(pattern, text)
    assert match is not None, pattern
    return float(match[1])


def main() -> None:
    """Print the figures."""
    model = Path(sys.argv[1]).resolve()
    limit = int(float(sys.argv[2] if len(sys.argv) > 2 else 12) * 1e9)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EDGEPACK_CACHE"] = f"{scratch}/edgepack"
        plain, _ = measure(
            [
                *(sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model),
                *("-o", f"{scratch}/plain", "-p", "int4", "-e", "cpu", "-c", f"{scratch}/cache"),
            ]
        )
        ours, output = measure(
            [
                *(sys.executable, "-m", "packager", "build", "--profile", "cpu-x86_64"),
                *("--model", model, "--recipe", "int4-rtn", "--model-only"),
                *("--allow-quality-loss", "--eval-text", README, "-o", f"{scratch}/ours.epk"),
            ],
            limit,
        )
    if plain["status"] or ours["status"]:
        sys.exit("a build failed, see above")
    ours |= {
        "building_s": number(r"done Building int4-rtn for cpu \((.*) s\)", output),
        "forecast_gb": number(r"needs up to (.*) GB RAM", output),
        "limit_gb": limit / 1e9,
        "resident_gb": {
            title: float(peak)
            for title, peak in re.findall(r"^ *(.*): peak resident memory (.*) GB$", output, re.M)
        },
    }
    console.result_json({"model_builder": plain, "edgepack": ours})


if __name__ == "__main__":
    main()
