"""Measure time and memory of a build under a limit of memory:

    python -m scripts.build_memory MODEL [LIMIT_GB] [RECIPE]

MODEL is a Hugging Face folder. RECIPE is `int4-rtn` (the default), evaluated on the README's text
and compared with onnxruntime-genai's own builder; another one; or `ladder`: all that `auto` tries,
with limits that few recipes keep, on text that the model writes. Runs `edgepack build
--model-only` in a control group with LIMIT_GB of memory (default: 12; needs root). Prints one JSON
object: wall time and peak anonymous memory, the forecasts of both, the time and the forecast of
each stage, and the peak while a job of each type ran. Mapped files are not counted: the kernel
drops their pages under memory pressure.

    python -m scripts.build_memory --picture FILE.svg RESULT.json...

draws results of several models.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from packager import console

README = Path(__file__).parent.parent / "README.md"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
SAMPLE_S = 0.05
LADDER = "max_kl = { 0 = 0.02, 400M = 0.01, 3B = 0.02 }"
"""Limits that most recipes do not keep for the models in docs/quantization.md."""


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
        peaks, ended = {"": 0}, threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_S):
                stat = (self._folder / "memory.stat").read_text()
                counters = dict(line.split() for line in stat.splitlines())
                job = self._job()
                peaks[job] = max(peaks.get(job, 0), int(counters[self._anonymous]))

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
            "peak_anonymous_gb": round(max(peaks.values()) / 1e9, 2),
            "jobs_gb": {job: round(peak / 1e9, 2) for job, peak in peaks.items()},
        }
        return figures, output

    def _job(self) -> str:
        """Return the type of the job that runs in the group; empty without one."""
        for process in (self._folder / "cgroup.procs").read_text().split():
            with suppress(OSError):  # it has ended
                argv = Path("/proc", process, "cmdline").read_text().split("\0")
                if "packager.jobs" in argv:
                    return argv[argv.index("packager.jobs") + 2]
        return ""

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


def build(model: Path, limit: int, recipe: str, scratch: Path) -> dict[str, Any]:
    """Measure a build with edgepack."""
    os.environ["EDGEPACK_CACHE"] = f"{scratch}/edgepack"
    profile = scratch / "measured.toml"
    limits = f"[limits]\n{LADDER}\n" if recipe == "ladder" else ""
    profile.write_text(f'extends = "cpu-x86_64"\nname = "measured"\n{limits}')
    options = ["--recipe", "auto" if recipe == "ladder" else recipe]
    if recipe == "int4-rtn":
        options += ["--eval-text", str(README)]
    if recipe != "ladder":
        options += ["--allow-quality-loss"]
    options += ["--model-only", "-o", str(scratch / "ours.epk")]
    ours, output = measure(
        [
            *(sys.executable, "-m", "packager", "build"),
            *("--profile", str(profile), "--model", str(model), *options),
        ],
        limit,
    )
    if ours["status"]:
        sys.exit("the build failed, see above")
    steps = re.findall(r"^ *done (.*) \(([0-9.]+) s\)$", output, re.M)
    return ours | {
        "parameters": parameters(model),
        "forecast_gb": number(r"needs up to (.*) GB RAM", output),
        "forecast": re.findall(r"takes about (.*) \(less if cached\)", output)[0],
        "limit_gb": limit / 1e9,
        "steps_s": {title: float(seconds) for title, seconds in steps},
        "stages": dict(re.findall(r"^ *(.*): took (.*, forecast .*)$", output, re.M)),
    }


def parameters(model: Path) -> int:
    """Count the weights of a Hugging Face folder."""
    from safetensors import safe_open

    count = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            count += sum(math.prod(shape) for shape in shapes)
    return count


def draw(picture: Path, results: Sequence[Path]) -> None:
    """Draw time and memory against the number of weights, both scales logarithmic."""
    from matplotlib.figure import Figure

    builds = sorted(
        (json.loads(path.read_text())["edgepack"] for path in results),
        key=lambda result: int(result["parameters"]),
    )
    weights = [result["parameters"] / 1e9 for result in builds]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for place, (title, values) in enumerate(
        {
            "time, minutes": [result["wall_s"] / 60 for result in builds],
            "peak of anonymous memory, GB": [result["peak_anonymous_gb"] for result in builds],
        }.items()
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.loglog(weights, values, "o-", label="measured")
        growth = [values[0] * weight / weights[0] for weight in weights]
        axes.loglog(weights, growth, ":", label="as the number of weights")
        axes.set_xticks(weights, [f"{weight:.2g}" for weight in weights])
        axes.set_yticks(values, [f"{value:.1f}" for value in values])
        axes.minorticks_off()
        axes.set_xlabel("billion weights")
        axes.set_title(title)
        axes.legend()
    figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Print the figures, or draw them."""
    if sys.argv[1] == "--picture":
        draw(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
        return
    model = Path(sys.argv[1]).resolve()
    limit = int(float(sys.argv[2] if len(sys.argv) > 2 else 12) * 1e9)
    recipe = sys.argv[3] if len(sys.argv) > 3 else "int4-rtn"
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if recipe == "int4-rtn":
            figures["model_builder"], _ = measure(
                [
                    *(sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model),
                    *("-o", scratch / "plain", "-p", "int4", "-e", "cpu"),
                    *("-c", scratch / "cache"),
                ]
            )
            if figures["model_builder"]["status"]:
                sys.exit("the model builder failed, see above")
        figures["edgepack"] = build(model, limit, recipe, scratch)
    console.result_json(figures)


if __name__ == "__main__":
    main()
