"""The processor that a model runs on: chosen among fake engines in real processes."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from device_runtime.bundle.manifest import Probe
from device_runtime.processor import Processor
from device_runtime.vulkan import Gpu, Gpus
from device_runtime.worker import gpus, trial
from device_runtime.worker.health import Health
from device_runtime.worker.placement import FILE_NAME, Placement, Wanted
from device_runtime.worker.supervisor import Supervisor
from tests.support import fakes
from tests.support.serving import is_gone

pytestmark = pytest.mark.anyio

WORDS = tuple("abcdefghijklmnopqrst")
PROBE = Probe(prompt=" ".join(WORDS), tokens=(1,) * len(WORDS))
GPU = Gpu(name="Orin", driver=7, software=False)
BOTH = (Processor.GPU_FP16, Processor.GPU)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Gpus]:
    """What is found when GPUs are looked for; a test may replace it."""
    listed = [Gpus(gpus=(GPU,))]
    monkeypatch.setattr(gpus, "find", lambda: listed[0])
    return listed


class Workers:
    """Commands of workers, by processor; notes which were started."""

    def __init__(self, **modes: str) -> None:
        self._modes = {Processor[name]: mode for name, mode in modes.items()}
        self.started: list[Processor] = []

    def command(self, processor: Processor) -> list[str]:
        self.started.append(processor)
        return fakes.worker_command(self._modes.get(processor, ""))

    def placement(
        self, wanted: Wanted = "auto", folder: Path | None = None, release: str = "a"
    ) -> Placement:
        return Placement(
            self.command, release=release, graphs=BOTH, wanted=wanted, probe=PROBE, folder=folder
        )


async def test_faster_gpu_is_taken() -> None:
    placement = Workers(GPU_FP16="fast").placement()
    await placement.settle()
    assert placement.state.name is Processor.GPU_FP16
    assert placement.state.gpu == "Orin"
    assert placement.state.reason == "1900.0 tokens/s on the GPU, 190.0 on the CPU"


async def test_slower_gpu_is_not_taken() -> None:
    placement = Workers(CPU="fast").placement()
    await placement.settle()
    assert placement.state.name is Processor.CPU
    assert placement.state.reason == "190.0 tokens/s on the GPU, 1900.0 on the CPU"


async def test_gpu_that_is_asked_for_is_taken_whatever_its_speed() -> None:
    workers = Workers(CPU="fast")
    placement = workers.placement("gpu")
    await placement.settle()
    assert placement.state.name is Processor.GPU_FP16
    assert workers.started == [Processor.GPU_FP16]


async def test_gpu_without_half_precision_runs_the_other_graph() -> None:
    workers = Workers(GPU_FP16="broken", GPU="fast")
    placement = workers.placement()
    await placement.settle()
    assert placement.state.name is Processor.GPU
    assert workers.started == [Processor.GPU_FP16, Processor.GPU, Processor.CPU]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("broken", "no model here"),
        ("dies", "the inference process was killed by SIGSEGV"),
        ("wrong", "token 1 of 20 is not the one that the build recorded"),
    ],
)
async def test_gpu_that_fails_is_not_taken(
    mode: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    placement = Workers(GPU_FP16=mode, GPU=mode).placement()
    await placement.settle()
    assert placement.state.name is Processor.CPU
    assert placement.state.reason == f"the GPU failed: {reason}"
    assert [record.message for record in caplog.records] == [
        "processor_tried",
        "processor_tried",
        "processor_chosen",
    ]


async def test_gpu_that_takes_too_long_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_S", 0.01)
    placement = Workers().placement()
    await placement.settle()
    assert placement.state.name is Processor.CPU
    assert "it took more than 0 s" in placement.state.reason


async def test_machine_without_a_gpu_says_why(machine: list[Gpus]) -> None:
    machine[0] = Gpus(problem="there is no Vulkan loader")
    workers = Workers()
    placement = workers.placement()
    await placement.settle()
    assert placement.state.reason == "there is no Vulkan loader"
    assert workers.started == []


async def test_driver_that_computes_on_the_cpu_is_taken_only_by_name(machine: list[Gpus]) -> None:
    machine[0] = Gpus(gpus=(Gpu(name="llvmpipe", driver=1, software=True),))
    placement = Workers(GPU_FP16="fast").placement()
    await placement.settle()
    assert placement.state.name is Processor.CPU
    assert placement.state.reason == "there is no GPU: llvmpipe computes on the CPU"
    placement = Workers(GPU_FP16="fast").placement("gpu")
    await placement.settle()
    assert placement.state.name is Processor.GPU_FP16


async def test_cpu_that_is_asked_for_is_taken_at_once() -> None:
    workers = Workers(GPU_FP16="fast")
    placement = workers.placement("cpu")
    await placement.settle()
    assert placement.state.name is Processor.CPU
    assert workers.started == []


async def test_choice_is_remembered(tmp_path: Path, machine: list[Gpus]) -> None:
    workers = Workers(GPU_FP16="fast")
    first = workers.placement(folder=tmp_path)
    await first.settle()
    workers.started.clear()
    again = workers.placement(folder=tmp_path)
    await again.settle()
    assert again.state == first.state
    assert workers.started == []
    machine[0] = Gpus(gpus=(Gpu(name="Orin", driver=8, software=False),))
    for other in (
        workers.placement(folder=tmp_path),
        workers.placement(folder=tmp_path, release="b"),
        workers.placement("gpu", folder=tmp_path, release="b"),
    ):
        workers.started.clear()
        await other.settle()
        assert workers.started[0] is Processor.GPU_FP16


@pytest.mark.parametrize("content", [b"", b"{", b'{"release": "a"}', b"[" * 100_000])
async def test_damaged_memory_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    placement = Workers(GPU_FP16="fast").placement(folder=tmp_path)
    await placement.settle()
    assert placement.state.name is Processor.GPU_FP16
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["state"]["name"] == "gpu-fp16"


async def test_folder_that_cannot_be_written_only_costs_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    placement = Workers(GPU_FP16="fast").placement(folder=tmp_path / "missing")
    await placement.settle()
    assert placement.state.name is Processor.GPU_FP16
    assert "processor_not_remembered" in caplog.messages


@asynccontextmanager
async def serving(placement: Placement) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(placement, probe=PROBE)
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()


async def remembered(tmp_path: Path, **modes: str) -> Placement:
    """A placement that remembers a GPU, which behaves otherwise by now."""
    await Workers(GPU_FP16="fast").placement(folder=tmp_path).settle()
    return Workers(**modes).placement(folder=tmp_path)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("broken", "no model here"),
        ("dies", "SIGSEGV"),
        ("wrong", "token 1 of 20 is not the one"),
    ],
)
async def test_gpu_that_fails_at_a_later_start_is_given_up(
    tmp_path: Path, mode: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(await remembered(tmp_path, GPU_FP16=mode)) as supervisor:
        assert supervisor.health is Health.READY
        assert supervisor.self_check is not None
        assert supervisor.self_check.passed
        words = [chunk.text async for chunk in supervisor.generate(fakes.request("a b"))]
        assert "".join(words) == "a b "
    assert "gpu_failed" in caplog.messages


async def test_gpu_that_keeps_crashing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_runtime.worker.restarts.FIRST_DELAY_S", 0.01)
    gone = tmp_path / "driver-gone"
    placement = await remembered(tmp_path, GPU_FP16=str(gone))
    async with serving(placement) as supervisor:
        assert placement.state.name is Processor.GPU_FP16
        gone.touch()
        supervisor.restart()
        async with asyncio.timeout(60):
            while placement.state.gpu and not placement.state.reason.startswith("the GPU failed"):
                await asyncio.sleep(0.01)
        assert placement.state.reason == "the GPU failed: no model here"


async def test_service_that_stops_during_a_trial_leaves_no_process() -> None:
    placement = Workers(GPU_FP16="hangs").placement()
    starting = asyncio.create_task(Supervisor(placement, probe=PROBE).start())
    own = psutil.Process()
    before = set(own.children())
    async with asyncio.timeout(60):
        while not set(own.children()) - before:
            await asyncio.sleep(0.01)
    (child,) = set(own.children()) - before
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert is_gone(child.pid)
