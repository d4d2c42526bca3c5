"""Measure a bundle's frozen runtime on this machine: `python scripts/measure.py BUNDLE.epk`.

Prints one JSON object: the sizes, and the medians of five runs with the same prompt.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from packager import console, launch

QUESTION = "Name the capital of France."
RUNS = 5


def once(program: Path) -> dict[str, float]:
    """Run the frozen program once, for one answer; return its latency, throughput and memory."""
    with subprocess.Popen(
        [program, "generate", QUESTION, "--max-tokens", "64", "--json"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    return {
        "start_to_first_token_s": answer["start_to_first_token_s"],
        "tokens_per_s": answer["tokens_per_s"],
        "peak_memory_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def main() -> None:
    """Print the figures."""
    bundle = Path(sys.argv[1])
    release = launch.unpack_for_host(bundle)
    runs = [once(release.program) for _ in range(RUNS)]
    runtime = [r for r in release.manifest.records if r.component == "runtime"]
    stored = {r.blob.sha256: r.blob.size for r in runtime if r.blob}
    console.result_json(
        {
            "bundle_mb": round(bundle.stat().st_size / 1e6, 1),
            "runtime_mb": round(sum(r.size for r in runtime) / 1e6, 1),
            "runtime_in_the_bundle_mb": round(sum(stored.values()) / 1e6, 1),
            **{name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]},
        }
    )


if __name__ == "__main__":
    main()
