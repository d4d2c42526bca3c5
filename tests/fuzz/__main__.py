"""Run a target: `python -m tests.fuzz manifest --seconds 600`.

An exception, an input of more than a second of processor time, or 200 MB more memory than before
the first input ends the run with an error; the input is then in the folder that is printed.
"""

import argparse
import importlib
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import atheris

MAX_SECONDS = 1.0
MAX_MB = 200
MAX_LENGTH = 1 << 18


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument(
        "target", choices=("audio", "envelope", "image", "manifest", "tar_reader", "update")
    )
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    # Instrumented while they are imported: nothing may import them before.
    with atheris.instrument_imports(include=["device_runtime.bundle", "device_runtime.inference"]):
        target = importlib.import_module(f"tests.fuzz.{options.target}")
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds()):
        target.run(seed)
        (corpus / str(number)).write_bytes(seed)
    before, slowest, runs = peak_mb(), 0.0, 0

    def run(data: bytes) -> None:
        nonlocal slowest, runs
        start = time.process_time()
        target.run(data)
        taken, grown = time.process_time() - start, peak_mb() - before
        runs += 1
        if taken > MAX_SECONDS or grown > MAX_MB:
            raise AssertionError(f"an input took {taken:.2f} s, and memory grew by {grown:.0f} MB")
        if taken > 1.1 * slowest:
            slowest = taken
            print(f"slowest so far: {taken * 1000:.1f} ms, {len(data)} bytes", flush=True)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        source = random.Random(seed)
        if source.random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return bytes(target.mutate(data, source)[:max_size])

    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_LENGTH}",
        f"-artifact_prefix={folder}/",
        "-rss_limit_mb=0",
        "-print_final_stats=1",
    ]
    print(f"inputs that fail are kept in {folder}", flush=True)
    atheris.Setup([sys.argv[0], *flags, str(corpus)], run, custom_mutator=mutate)
    atheris.Fuzz()


main()
