"""Cases, their order and their figures, with a model that the test drives."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from device_runtime.bench import benchmark, measurement, process
from device_runtime.bench.bandwidth import Reader
from device_runtime.bench.cases import ANSWER, CONTEXTS, PREFILL, SHORT, Case, Prompts, cases
from device_runtime.bench.results import Benchmark, Spread
from device_runtime.bundle.reads import Reads
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError
from device_runtime.inference.engine import (
    GenerationChunk,
    GenerationRequest,
    OutOfMemoryError,
    TokenIds,
    Usage,
)
from device_runtime.processor import Processor
from device_runtime.worker.placement import Placement, ProcessorState
from tests.support import releases

READS = Reads(weights=8 << 20, cache=1024)


class Model:
    """A model that takes 1 ms for a token of a prompt and 10 ms for one of an answer.

    Attributes:
        asked: the lengths of the prompts that it got.
        firsts: their first tokens.
        length: returns the length of an answer, by the request and the number of the request.
        cached: tokens of each prompt that it has in its cache.
        memory: longest prompt that it has memory for.
    """

    pid = os.getpid()

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.firsts: list[int] = []
        self.length: Callable[[int, int], int] = lambda wanted, _: wanted
        self.slower: Callable[[int], float] = lambda _: 1.0
        self.cached = 0
        self.memory = 10_000

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        (prompt,) = request.prompts
        assert isinstance(prompt, TokenIds)
        tokens = len(prompt.ids)
        if tokens > self.memory:
            raise OutOfMemoryError(f"{tokens} tokens need more KV cache than this device has")
        self.asked.append(tokens)
        self.firsts.append(prompt.ids[0])
        number = len(self.asked)
        answer = self.length(request.max_tokens, number)
        slower = self.slower(number)
        yield GenerationChunk(prompt_tokens=tokens)
        yield GenerationChunk(tokens=1, text="a")
        used = Usage(
            prompt_tokens=tokens,
            completion_tokens=answer,
            cached_tokens=self.cached,
            first_token_s=0.001 * tokens * slower,
            decode_s=0.01 * (answer - 1) * slower,
        )
        yield GenerationChunk(tokens=answer, usage=used)


@pytest.fixture
def release(tiny_onnx: Path, tmp_path: Path) -> Release:
    return releases.release(tmp_path / "release", tiny_onnx, context_length=4096)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the process of the tests, which is never idle."""
    monkeypatch.setattr(measurement, "IDLE_LOOKS", 0)


def measured(release: Release, model: Model, reads: Reads | None = READS, **options: Any) -> Any:
    manifest = msgspec.structs.replace(release.manifest, reads=reads)
    release = Release(folder=release.folder, manifest=manifest, digest=release.digest)
    placement = Placement(lambda _: [], release=release.digest)
    placement.state = ProcessorState(name=options.pop("processor", Processor.CPU))
    options = {"threads": 2, "whole": True, "rounds": 3} | options
    return asyncio.run(benchmark.run(release, model, placement, **options))


def test_rounds_go_through_all_cases_in_turn(release: Release) -> None:
    model = Model()
    result: Benchmark = measured(release, model)
    lengths = [1, 32, 128, 512, 2048]
    assert model.asked == lengths * 4  # the first to warm up
    assert [case.tokens for case in result.prefill] == list(PREFILL)
    assert [case.context for case in result.decode] == list(CONTEXTS)
    assert {case.tokens_per_s.runs for case in result.decode} == {3}
    assert [round(case.tokens_per_s.median) for case in result.prefill] == [1000] * 4
    assert [round(case.tokens_per_s.median) for case in result.decode] == [100] * 3
    assert result.skipped == ()
    assert (result.threads, result.processor, result.bytes_from) == (2, "cpu", "build")


def test_no_two_prompts_begin_alike(release: Release) -> None:
    model = Model()
    measured(release, model)
    assert len(set(model.firsts)) == len(model.firsts)
    again = Model()
    measured(release, again)
    assert again.firsts == model.firsts


def test_figures_are_medians_with_their_range(release: Release) -> None:
    model = Model()
    # The rounds after the first, which only warms up, are as fast, a half and a fourth as fast.
    model.slower = lambda number: {0: 9, 1: 1, 2: 2, 3: 4}[(number - 1) // 5]
    result: Benchmark = measured(release, model)
    rates = result.decode[0].tokens_per_s
    assert (rates.median, rates.low, rates.high) == pytest.approx((50, 25, 100))
    assert Spread.of([]) is None
    assert Spread.of([3.0, 1.0]) == Spread(median=2.0, low=1.0, high=3.0, runs=2)


def test_share_of_the_limit(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "rate", lambda _: 2e9)
    result: Benchmark = measured(release, Model())
    assert result.bandwidth is not None
    assert result.bandwidth.bytes_per_s.median == 2e9
    assert result.bandwidth.working_set_bytes == READS.weights
    for case in result.decode:
        expected = READS.weights + 1024 * (max(1, case.context) + ANSWER // 2)
        assert case.bytes_per_token == expected
        assert case.share_of_limit == pytest.approx(100 * expected / 2e9)


def test_memory_is_measured_while_the_process_is_idle(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "IDLE_LOOKS", 100)
    monkeypatch.setattr(measurement, "IDLE_S", 0)
    looks = iter([*range(40), *[40] * 1000])
    monkeypatch.setattr(process, "cpu_s", lambda _: next(looks))
    left: list[int] = []

    def rate(_: Reader) -> float:
        left.append(next(looks))
        return 1e9

    monkeypatch.setattr(Reader, "rate", rate)
    measured(release, Model(), rounds=1)
    assert left == [40]


def test_a_gpu_has_no_limit_that_the_cpu_measures(release: Release) -> None:
    result: Benchmark = measured(release, Model(), processor=Processor.GPU)
    assert result.bandwidth is None
    assert {case.share_of_limit for case in result.decode} == {None}


def test_bundle_without_recorded_reads_has_the_size_of_its_weights(release: Release) -> None:
    result: Benchmark = measured(release, Model(), reads=None)
    assert result.bytes_from == "file"
    largest = (release.model_folder / "model.onnx.data").stat().st_size
    assert {case.bytes_per_token for case in result.decode} == {largest}


def test_windowed_layers_read_their_window_alone() -> None:
    reads = Reads(weights=1000, cache=10, windowed_cache=3, window=100)
    assert reads.at(0) == 1000
    assert reads.at(50) == 1000 + 500 + 150
    assert reads.at(2000) == 1000 + 20_000 + 300


def test_contexts_beyond_the_models_are_skipped() -> None:
    fitting, skipped = cases(600)
    assert fitting == [Case(1, 64), Case(32, 1), Case(128, 1), Case(512, 64)]
    assert [case.tokens for case in skipped] == [2048]
    assert "context length is 600" in skipped[0].reason
    assert [case.tokens for case in cases(512)[1]] == [512, 2048]
    short, left_out = cases(600, whole=False)
    assert max(case.prompt for case in short) == SHORT
    assert left_out == []


def test_prompts_that_memory_is_too_short_for_are_skipped(release: Release) -> None:
    model = Model()
    model.memory = 1000
    result: Benchmark = measured(release, model)
    assert [case.tokens for case in result.skipped] == [2048]
    assert "more KV cache" in result.skipped[0].reason
    assert max(case.tokens for case in result.prefill) == 512


def test_answer_that_ends_early_is_asked_for_again(release: Release) -> None:
    model = Model()
    model.length = lambda wanted, number: wanted // 2 if number % 2 and wanted > 1 else wanted
    result: Benchmark = measured(release, model)
    assert {case.tokens_per_s.runs for case in result.decode} == {3}
    assert len(model.asked) > 4 * 5
    assert result.skipped == ()


def test_answers_that_always_end_early_are_not_measured(release: Release) -> None:
    model = Model()
    model.length = lambda wanted, _: min(wanted, 7)
    result: Benchmark = measured(release, model)
    assert result.decode == ()
    assert [case.tokens for case in result.prefill] == [32, 128]
    assert {case.reason for case in result.skipped} == {"answers end after 7 of 64 tokens"}


def test_prompt_from_the_cache_is_not_measured(release: Release) -> None:
    model = Model()
    model.cached = 1
    with pytest.raises(EngineError, match="nothing could be measured"):
        measured(release, model)


def test_cpu_time_is_that_of_the_process(release: Release) -> None:
    result: Benchmark = measured(release, Model())
    assert all(case.cpu_s_per_token is not None for case in result.decode)
    assert result.memory is not None
    assert result.memory.peak_bytes >= result.memory.own_bytes > 0


def test_process_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    assert process.cpu_s(None) is None
    assert process.memory(1, tmp_path) is None
    (tmp_path / "1").mkdir()
    fields = "S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0"
    (tmp_path / "1/stat").write_text(f"1 (a) b) {fields}")
    ticks = os.sysconf("SC_CLK_TCK")
    assert process.cpu_s(1, tmp_path) == 200 / ticks


def test_vocabulary_of_few_tokens_is_enough() -> None:
    prompts = Prompts(4)
    request = prompts.request(Case(5, 1))
    (prompt,) = request.prompts
    assert isinstance(prompt, TokenIds)
    assert set(prompt.ids) <= set(range(4))
    assert prompts.request(Case(5, 1)).prompts[0] != prompt
    assert Prompts(1).request(Case(2, 1)).prompts == (TokenIds((0, 0)),)


def test_reader_takes_a_part_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = SimpleNamespace(available=lambda: 400 << 20)
    monkeypatch.setattr("device_runtime.bench.bandwidth.memory", bench)
    assert Reader(101 << 20, 2).size == 100 << 20
    assert Reader(4 << 20, 2).rate() > 0
    bench.available = lambda: 40 << 20
    assert Reader(10 << 20, 2).size == 10 << 20
    assert Reader(11 << 20, 2).size == 0  # the rest would be in the caches
