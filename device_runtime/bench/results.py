"""The results of a benchmark; docs/benchmarks.md explains them."""

import statistics
from collections.abc import Collection
from typing import Literal

import msgspec

SCHEMA = 1


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that was measured several times.

    Attributes:
        median: the median.
        low: the lowest value.
        high: the highest value.
        runs: number of values.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Collection[float]) -> "Spread | None":
        """Summarize values; None without any."""
        if not values:
            return None
        return cls(
            median=statistics.median(values), low=min(values), high=max(values), runs=len(values)
        )


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill of prompts of a length.

    Attributes:
        tokens: length of the prompts, tokens.
        tokens_per_s: prompt tokens by seconds to the first token.
        first_token_s: seconds from the start of prefill to the first token.
        cpu_s_per_token: CPU time of the inference process, of all its threads; None if the system
            does not tell.
        joules_per_token: energy of the board; None without a sensor.
    """

    tokens: int
    tokens_per_s: Spread
    first_token_s: Spread
    cpu_s_per_token: float | None
    joules_per_token: float | None


class Decode(msgspec.Struct, frozen=True, kw_only=True):
    """Decoding after a context of a length.

    Attributes:
        context: tokens of the prompt.
        tokens: tokens of an answer.
        tokens_per_s: tokens after the first by the seconds that they took.
        cpu_s_per_token: as in `Prefill`; None also if answers came in one piece, too fast to tell
            their beginning from their end.
        joules_per_token: the same.
        bytes_per_token: memory that a step reads, in the middle of the answer.
        share_of_limit: tokens_per_s by the most that the memory allows, 0 to 1 (above it where
            caches help); None where the limit was not measured.
    """

    context: int
    tokens: int
    tokens_per_s: Spread
    cpu_s_per_token: float | None
    joules_per_token: float | None
    bytes_per_token: int
    share_of_limit: float | None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that were not measured.

    Attributes:
        tokens: their length.
        reason: the reason.
    """

    tokens: int
    reason: str


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Memory read bandwidth.

    Attributes:
        bytes_per_s: bytes read by a second, by as many threads as the model has.
        working_set_bytes: size of what was read again and again.
    """

    bytes_per_s: Spread
    working_set_bytes: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the inference process.

    Attributes:
        loaded_bytes: resident memory with the model loaded, before the first request.
        peak_bytes: largest resident memory.
        own_bytes: of the resident memory at the end, what belongs to the process alone.
        file_bytes: pages of files in it, which the system drops when memory is short.
    """

    loaded_bytes: int
    peak_bytes: int
    own_bytes: int
    file_bytes: int


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """Starts of a new process, to the first token of its answer, seconds.

    Attributes:
        warm_s: with the release's files in the page cache.
        cold_s: after they were dropped from it; None if they could not be.
        cached_share: share of their bytes that was in the page cache all the same, 0 to 1; None if
            the system does not tell.
    """

    warm_s: Spread
    cold_s: Spread | None
    cached_share: float | None


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """Time of an operator type.

    Attributes:
        name: name of the type.
        calls: number of nodes that ran.
        ms: time of all of them, milliseconds.
        share: share of the time of all operators, 0 to 1.
    """

    name: str
    calls: int
    ms: float
    share: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Time by operator, the largest first.

    Attributes:
        decode: of a decode step: the mean of several.
        prefill: of the prefill of a prompt.
        context: length of the prompt, tokens; decoding comes after it.
    """

    decode: tuple[Operator, ...]
    prefill: tuple[Operator, ...]
    context: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the release, bytes.

    Attributes:
        stored: content of the bundle.
        installed: all files of the release.
        runtime_stored: of the bundle's content, the frozen runtime.
        runtime_installed: files of the frozen runtime.
    """

    stored: int
    installed: int
    runtime_stored: int
    runtime_installed: int


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured.

    Attributes:
        schema: version of this form.
        model: name of the model.
        version: version of the bundle.
        release: digest of the bundle.
        runtime: version of the program.
        precision: type of the weights.
        processor: processor that the model ran on.
        threads: threads of the model.
        rounds: number of rounds through all cases.
        prefill: prefill by length of the prompt.
        decode: decoding by length of the context.
        skipped: lengths that were not measured.
        bandwidth: memory read bandwidth; None where it was not measured.
        bytes_from: origin of the bytes that a step reads: recorded by the build, or, in bundles
            without that, the size of the weights' file, without KV cache.
        memory: memory of the inference process; None if the system does not tell.
        energy_from: the sensor of the energy; empty without one.
        sizes: sizes of the release.
        starts: starts of new processes; None if they were not measured.
        profile: time by operator; None if it was not wanted.
    """

    schema: int = SCHEMA
    model: str
    version: str
    release: str
    runtime: str
    precision: str
    processor: str
    threads: int
    rounds: int
    prefill: tuple[Prefill, ...]
    decode: tuple[Decode, ...]
    skipped: tuple[Skipped, ...]
    bandwidth: Bandwidth | None
    bytes_from: Literal["build", "file"]
    memory: Memory | None
    energy_from: str
    sizes: Sizes
    starts: Starts | None = None
    profile: Profile | None = None
