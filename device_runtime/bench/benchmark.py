"""A benchmark of a release on its inference process, from the samples to the figures."""

import asyncio
import json
from collections.abc import Iterable, Sequence

import device_runtime
from device_runtime.bench import ROUNDS, process
from device_runtime.bench.bandwidth import Reader
from device_runtime.bench.cases import PREFILL, Case, Prompts, cases
from device_runtime.bench.energy import meter
from device_runtime.bench.measurement import Sample, Spent, Tell, Worker, measure
from device_runtime.bench.results import (
    Bandwidth,
    Benchmark,
    Decode,
    Memory,
    Prefill,
    Sizes,
    Spread,
)
from device_runtime.bundle.manifest import Manifest
from device_runtime.bundle.reads import Reads
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError
from device_runtime.processor import Processor, cores
from device_runtime.worker.placement import Placement


async def run(
    release: Release,
    worker: Worker,
    placement: Placement,
    *,
    threads: int,
    whole: bool,
    rounds: int = ROUNDS,
    tell: Tell = lambda _: None,
) -> Benchmark:
    """Measure a release on its inference process, which has loaded the model.

    Args:
        release: the release.
        worker: the process.
        placement: processor that the model runs on.
        threads: threads of the model; 0 for one a core.
        whole: measure long prompts as well.
        rounds: number of rounds that count.
        tell: is told what is being done.

    Raises:
        EngineError: nothing could be measured.
        DeviceError: the worker fails.
    """
    manifest = release.manifest
    threads = threads or cores() or 1
    fitting, skipped = cases(manifest.context_length, whole=whole)
    config = json.loads((release.model_folder / "genai_config.json").read_bytes())
    prompts = Prompts(config["model"]["vocab_size"])
    reads = manifest.reads or Reads(weights=_largest_file(manifest), cache=0)
    loaded = process.memory(worker.pid)
    reader = None
    # A GPU with memory of its own reads that, which nothing here measures.
    provider = manifest.quantization.execution_provider.lower()
    if placement.state.name is Processor.CPU and provider in ("cpu", "webgpu"):
        reader = await asyncio.to_thread(Reader, reads.weights, threads)
    with meter() as energy:
        samples = await measure(
            worker,
            fitting,
            prompts,
            rounds=rounds,
            meter=energy,
            reader=reader,
            tell=tell,
        )
    if not samples.of:
        reasons = "; ".join(case.reason for case in [*skipped, *samples.skipped])
        raise EngineError(f"nothing could be measured: {reasons}")
    bandwidth = None
    if reader is not None and (rates := Spread.of(samples.rates)) is not None:
        bandwidth = Bandwidth(bytes_per_s=rates, working_set_bytes=reader.size)
    return Benchmark(
        model=manifest.model.name,
        version=manifest.version,
        release=release.digest,
        runtime=device_runtime.__version__,
        precision=manifest.quantization.precision,
        processor=placement.state.name,
        threads=threads,
        rounds=rounds,
        prefill=tuple(
            _prefill(case, values) for case, values in samples.of.items() if case.prompt in PREFILL
        ),
        decode=tuple(
            _decode(case, values, reads, bandwidth)
            for case, values in samples.of.items()
            if case.answer > 1
        ),
        skipped=(*samples.skipped, *skipped),
        bandwidth=bandwidth,
        bytes_from="build" if manifest.reads else "file",
        memory=_memory(worker.pid, loaded),
        energy_from=energy.name,
        sizes=_sizes(manifest),
    )


def _prefill(case: Case, samples: list[Sample]) -> Prefill:
    seconds = [sample.usage.first_token_s for sample in samples]
    rates = Spread.of([case.prompt / max(value, 1e-9) for value in seconds])
    times = Spread.of(seconds)
    assert rates is not None
    assert times is not None
    spent = _each([sample.prefill for sample in samples], case.prompt * len(samples))
    return Prefill(
        tokens=case.prompt,
        tokens_per_s=rates,
        first_token_s=times,
        cpu_s_per_token=spent.cpu_s,
        joules_per_token=spent.joules,
    )


def _decode(case: Case, samples: list[Sample], reads: Reads, bandwidth: Bandwidth | None) -> Decode:
    rates = Spread.of([sample.usage.tokens_per_s or 0.0 for sample in samples])
    assert rates is not None
    spent = _each([sample.decode for sample in samples], sum(sample.decoded for sample in samples))
    bytes_per_token = reads.at(case.prompt + case.answer // 2)
    share = None
    if bandwidth is not None:
        share = rates.median * bytes_per_token / bandwidth.bytes_per_s.median
    return Decode(
        context=case.prompt if case.prompt > 1 else 0,
        tokens=case.answer,
        tokens_per_s=rates,
        cpu_s_per_token=spent.cpu_s,
        joules_per_token=spent.joules,
        bytes_per_token=bytes_per_token,
        share_of_limit=share,
    )


def _each(values: Iterable[Spent], tokens: int) -> Spent:
    """Return what was spent for a token, of all samples together: single ones are a few ticks."""
    cpu_s, joules = zip(*values, strict=True)
    return Spent(_mean(cpu_s, tokens), _mean(joules, tokens))


def _mean(amounts: Sequence[float | None], tokens: int) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) / tokens if tokens and len(known) == len(amounts) else None


def _memory(pid: int | None, loaded: dict[str, int] | None) -> Memory | None:
    now = process.memory(pid)
    if now is None or loaded is None:
        return None
    return Memory(
        loaded_bytes=loaded["VmRSS"],
        peak_bytes=now["VmHWM"],
        own_bytes=now["RssAnon"],
        file_bytes=now["RssFile"],
    )


def _largest_file(manifest: Manifest) -> int:
    """Return the size of the model's largest file: its weights, whatever their name."""
    models = (record for record in manifest.records if record.component == "model")
    return max((record.size for record in models), default=0)


def _sizes(manifest: Manifest) -> Sizes:
    runtime = [record for record in manifest.records if record.component == "runtime"]
    stored = {record.blob.sha256: record.blob.size for record in runtime if record.blob}
    return Sizes(
        stored=sum(blob.size for blob in manifest.blobs.values()),
        installed=manifest.installed_size,
        runtime_stored=sum(stored.values()),
        runtime_installed=sum(record.size for record in runtime),
    )
