"""Rounds through all cases: the same for an inference process of its own and for a service's."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol

from device_runtime.bench import process
from device_runtime.bench.bandwidth import Reader
from device_runtime.bench.cases import Case, Prompts
from device_runtime.bench.energy import Meter
from device_runtime.bench.results import Skipped
from device_runtime.errors import RequestError
from device_runtime.inference.engine import GenerationChunk, GenerationRequest, Usage

ATTEMPTS = 3
"""Prompts to try in a round until an answer does not end before its length."""

IDLE_S = 0.1
"""Time without work after which the process is taken for idle, seconds."""
IDLE_LOOKS = 100
"""Number of times to look whether it is."""

Tell = Callable[[str], None]


class Worker(Protocol):
    """The inference process: the supervisor, or a fake."""

    @property
    def pid(self) -> int | None:
        """See `Supervisor.pid`."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """See `Supervisor.generate`."""
        ...


class Spent(NamedTuple):
    """Readings of counters, or their differences; None without a counter.

    Attributes:
        cpu_s: CPU time of the inference process, seconds.
        joules: energy of the board.
    """

    cpu_s: float | None
    joules: float | None

    def since(self, before: "Spent") -> "Spent":
        """Return what was spent after another reading."""
        return Spent(_difference(self.cpu_s, before.cpu_s), _difference(self.joules, before.joules))


class Sample(NamedTuple):
    """A request that was answered.

    Attributes:
        usage: its tokens and times.
        prefill: spent until its first token.
        decode: spent after that.
        decoded: tokens for which `decode` was spent.
    """

    usage: Usage
    prefill: Spent
    decode: Spent
    decoded: int


class Samples(NamedTuple):
    """The samples of all cases.

    Attributes:
        of: samples by case, one of each round in which the answer was long enough.
        rates: memory read bandwidth in each round, bytes per second.
        skipped: cases that could not be measured.
    """

    of: dict[Case, list[Sample]]
    rates: list[float]
    skipped: list[Skipped]


async def measure(
    worker: Worker,
    cases: list[Case],
    prompts: Prompts,
    *,
    rounds: int,
    meter: Meter,
    reader: Reader | None,
    tell: Tell,
) -> Samples:
    """Go through all cases once to warm up, then round by round.

    What slows a device for a while, such as its heat, so meets all cases alike.

    Args:
        worker: answers the requests.
        cases: what to measure.
        prompts: makes the requests.
        rounds: number of rounds that count.
        meter: counter of energy, entered.
        reader: measures the memory in each round; None for no such measurement.
        tell: is told what is being done.

    Raises:
        DeviceError: the worker fails.
    """
    samples = Samples({case: [] for case in cases}, [], [])
    short: dict[Case, int] = {}
    for number in range(rounds + 1):
        tell(f"round {number} of {rounds}" if number else "warming up")
        for case in list(samples.of):
            try:
                sample, longest = await _sample(worker, case, prompts, meter)
            except RequestError as error:
                # More of a KV cache than this device has memory for: it will not have it later.
                samples.skipped.append(Skipped(tokens=case.prompt, reason=str(error)))
                del samples.of[case]
                continue
            short[case] = max(longest, short.get(case, 0))
            if number and sample is not None:
                samples.of[case].append(sample)
        if number and reader is not None and reader.size:
            await _idle(worker)
            samples.rates.append(await asyncio.to_thread(reader.rate))
    for case in [case for case, values in samples.of.items() if not values]:
        reason = f"answers end after {short[case]} of {case.answer} tokens"
        samples.skipped.append(Skipped(tokens=case.prompt, reason=reason))
        del samples.of[case]
    return samples


async def _idle(worker: Worker) -> None:
    """Wait until the process has done what it does ahead, between requests, or for long enough."""
    before = process.cpu_s(worker.pid)
    for _ in range(IDLE_LOOKS):
        await asyncio.sleep(IDLE_S)
        now = process.cpu_s(worker.pid)
        if now == before:
            return
        before = now


async def _sample(
    worker: Worker, case: Case, prompts: Prompts, meter: Meter
) -> tuple[Sample | None, int]:
    """Measure an answer; return it, or None if all end early, and the tokens of the longest."""
    longest = 0
    for _ in range(ATTEMPTS):
        sample = await _answer(worker, prompts.request(case), meter)
        longest = max(longest, sample.usage.completion_tokens)
        if sample.usage.completion_tokens == case.answer and not sample.usage.cached_tokens:
            return sample, longest
    return None, longest


async def _answer(worker: Worker, request: GenerationRequest, meter: Meter) -> Sample:
    def read() -> Spent:
        return Spent(process.cpu_s(worker.pid), meter.joules())

    before: Spent | None = None
    first: Spent | None = None
    tokens = 0
    usage: Usage | None = None
    async with aclosing(worker.generate(request)) as chunks:
        async for chunk in chunks:
            # The first one comes when the process begins with the request: what it did until then,
            # ahead for an earlier one, is not this one's.
            before = before or read()
            if chunk.tokens and first is None:
                first, tokens = read(), chunk.tokens
            usage = chunk.usage or usage
    end = read()
    assert before is not None
    assert usage is not None
    first = first or end
    return Sample(usage, first.since(before), end.since(first), usage.completion_tokens - tokens)


def _difference(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before
