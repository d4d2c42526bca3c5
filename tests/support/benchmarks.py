"""Benchmarks as results, without any measurement."""

from collections.abc import Sequence

from device_runtime.bench.results import (
    Bandwidth,
    Benchmark,
    Decode,
    Memory,
    Operator,
    Prefill,
    Profile,
    Sizes,
    Skipped,
    Spread,
    Starts,
)


def spread(median: float) -> Spread:
    return Spread(median=median, low=median * 0.9, high=median * 1.1, runs=3)


def benchmark(contexts: Sequence[int] = (0, 512), *, bare: bool = False) -> Benchmark:
    """A benchmark that decodes 100 tokens/s, less 10 for each context after the first.

    Args:
        contexts: contexts that were measured.
        bare: without everything that a device may be unable to tell.
    """
    operators = tuple(
        Operator(name=f"Operator{number}", calls=2, ms=1.0, share=0.1) for number in range(10)
    )
    return Benchmark(
        model="model <&> more",
        version="1.0.0",
        release="0" * 64,
        runtime="1.0.0",
        precision="int4",
        processor="cpu",
        threads=2,
        rounds=3,
        prefill=(
            Prefill(
                tokens=32,
                tokens_per_s=spread(128.0),
                first_token_s=spread(0.25),
                cpu_s_per_token=None if bare else 0.012,
                joules_per_token=None if bare else 0.034,
            ),
        ),
        decode=tuple(
            Decode(
                context=context,
                tokens=64,
                tokens_per_s=spread(100.0 - 10 * number),
                cpu_s_per_token=None if bare else 0.02,
                joules_per_token=None if bare else 0.06,
                bytes_per_token=100_000_000,
                share_of_limit=None if bare else 0.5,
            )
            for number, context in enumerate(contexts)
        ),
        skipped=(Skipped(tokens=2048, reason="the context length is 1024 tokens"),),
        bandwidth=None
        if bare
        else Bandwidth(bytes_per_s=spread(20e9), working_set_bytes=100_000_000),
        bytes_from="file" if bare else "build",
        memory=None
        if bare
        else Memory(loaded_bytes=300 << 20, peak_bytes=400 << 20, own_bytes=1, file_bytes=2),
        energy_from="" if bare else "RAPL: package-0",
        sizes=Sizes(stored=1, installed=2, runtime_stored=3, runtime_installed=4),
        starts=Starts(
            warm_s=spread(0.8),
            cold_s=None if bare else spread(1.6),
            cached_share=0.5 if bare else 0,
        ),
        profile=None if bare else Profile(decode=operators, prefill=operators, context=512),
    )
