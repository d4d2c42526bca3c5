"""The choice of the processor that a model runs on: the CPU, or a GPU where that is faster.

A GPU is chosen only if it continues the release's probe with the tokens that the build recorded. It
is given up for the CPU as soon as it fails: a driver must not cost a device its service. What was
tried is remembered, so that only the first start of a release with a driver takes the time.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.bundle.manifest import Probe
from device_runtime.bundle.release import Release
from device_runtime.durable import written_aside
from device_runtime.heartbeat import SelfCheck
from device_runtime.logs import event
from device_runtime.processor import Processor, gpu_graphs
from device_runtime.vulkan import Gpu
from device_runtime.worker import gpus, process, trial
from device_runtime.worker.tuning import Setting

log = logging.getLogger(__name__)

FILE_NAME = "processor.json"
PROMPT = Probe(prompt="1, 2, 3, 4,", tokens=())
"""Prompt to measure the speed with for a release without a probe."""

Wanted = Literal["auto", "cpu", "gpu"]


class ProcessorState(msgspec.Struct, frozen=True, kw_only=True):
    """The processor that the model runs on.

    Attributes:
        name: `cpu`, or `gpu` or `gpu-fp16` by the precision that the GPU computes in.
        gpu: name of the GPU that was considered; empty for none.
        reason: reason for the choice; empty where there is none to make.
    """

    name: Processor = Processor.CPU
    gpu: str = ""
    reason: str = ""


class _Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A choice, and everything that it depends on."""

    release: str
    wanted: str
    gpu: Gpu
    state: ProcessorState


class Placement:
    """The processor of a release's model.

    Args:
        command: returns the command that starts the inference process on a processor.
        release: digest of the release.
        graphs: graphs of the release that a GPU can run, the fastest first; none without support.
        wanted: the processor that the configuration asks for.
        probe: prompt and tokens to check a processor with; None if the release has none.
        folder: folder in which choices are remembered; None for nowhere.
        reason: what to say of a CPU that is not compared with a GPU.

    Attributes:
        state: the current choice, and its reason.
    """

    def __init__(
        self,
        command: Callable[[Processor], list[str]],
        *,
        release: str,
        graphs: Sequence[Processor] = (),
        wanted: Wanted = "auto",
        probe: Probe | None = None,
        folder: Path | None = None,
        reason: str = "",
    ) -> None:
        self.state = ProcessorState(reason=reason)
        self._command = command
        self._release = release
        self._graphs = graphs
        self._wanted = wanted
        self._probe = probe or PROMPT
        self._file = folder / FILE_NAME if folder is not None else None

    @classmethod
    def of_release(
        cls,
        release: Release,
        *,
        threads: int,
        kv_cache_mib: int,
        wanted: Wanted,
        folder: Path | None = None,
        tuned: Setting | None = None,
    ) -> "Placement":
        """Return the placement of a release.

        Args:
            release: the release.
            threads: number of ONNX Runtime threads; 0 for one a core.
            kv_cache_mib: memory for KV caches, MiB; 0 for the engine's default.
            wanted: the processor that the configuration asks for.
            folder: folder for choices, and for what the process keeps; None for nowhere.
            tuned: threads that were measured to be faster, instead of these.
        """
        setting = tuned or Setting(threads=threads)
        return cls(
            lambda processor: process.command(
                release.folder,
                setting.threads,
                cpus=setting.cpus,
                kv_cache_mib=kv_cache_mib,
                processor=processor,
                state_folder=folder,
            ),
            release=release.digest,
            graphs=gpu_graphs(release.model_folder),
            wanted=wanted,
            probe=release.manifest.probe,
            folder=folder,
            reason=f"tuned: {tuned}" if tuned is not None else "",
        )

    @property
    def command(self) -> list[str]:
        """Command that starts the inference process on the chosen processor."""
        return self._command(self.state.name)

    async def settle(self) -> None:
        """Choose the processor; never fails."""
        if self._graphs and self._wanted != "cpu":
            chosen = self.state = await self._choose()
            fields = {"processor": chosen.name, "gpu": chosen.gpu, "reason": chosen.reason}
            event(log, logging.INFO, "processor_chosen", **fields)

    def fall_back(self, reason: str) -> bool:
        """Give the GPU up for the CPU; return False if the model runs on the CPU already."""
        if self.state.name is Processor.CPU:
            return False
        event(log, logging.WARNING, "gpu_failed", processor=self.state.name, reason=reason)
        self.state = ProcessorState(gpu=self.state.gpu, reason=f"the GPU failed: {reason}")
        return True

    async def _choose(self) -> ProcessorState:
        listed = await asyncio.to_thread(gpus.find)
        usable = [gpu for gpu in listed.gpus if self._wanted == "gpu" or not gpu.software]
        if not usable:
            names = ", ".join(gpu.name for gpu in listed.gpus)
            reason = listed.problem or f"there is no GPU: {names} computes on the CPU"
            return ProcessorState(gpu=names, reason=reason)
        gpu = usable[0]
        remembered = self._read()
        if remembered is not None and remembered.gpu == gpu:
            return remembered.state
        state = await self._compare(gpu)
        self._remember(gpu, state)
        return state

    async def _compare(self, gpu: Gpu) -> ProcessorState:
        """Try the graphs for the GPU until one passes, and the CPU."""
        outcome = SelfCheck(passed=False, tokens_per_s=None, detail="")
        for graph in self._graphs:
            outcome = await self._attempt(graph)
            if outcome.passed:
                break
        if not outcome.passed:
            return ProcessorState(gpu=gpu.name, reason=f"the GPU failed: {outcome.detail}")
        speed = f"{outcome.tokens_per_s or 0:.1f} tokens/s on the GPU"
        if self._wanted == "gpu":
            return ProcessorState(name=graph, gpu=gpu.name, reason=speed)
        other = await self._attempt(Processor.CPU)
        slower = (outcome.tokens_per_s or 0) < (other.tokens_per_s or 0)
        return ProcessorState(
            name=Processor.CPU if slower else graph,
            gpu=gpu.name,
            reason=f"{speed}, {other.tokens_per_s or 0:.1f} on the CPU",
        )

    async def _attempt(self, processor: Processor) -> SelfCheck:
        outcome = await trial.attempt(self._command(processor), self._probe)
        level = logging.INFO if outcome.passed else logging.WARNING
        fields = msgspec.structs.asdict(outcome)
        event(log, level, "processor_tried", processor=processor, **fields)
        return outcome

    def _remember(self, gpu: Gpu, state: ProcessorState) -> None:
        if self._file is None:
            return
        remembered = _Remembered(release=self._release, wanted=self._wanted, gpu=gpu, state=state)
        try:
            with written_aside(self._file, 0o600) as file:
                file.write(msgspec.json.encode(remembered))
        except OSError as error:
            event(log, logging.WARNING, "processor_not_remembered", reason=error)

    def _read(self) -> _Remembered | None:
        """Read what is remembered of this release and configuration."""
        if self._file is None:
            return None
        try:
            remembered = msgspec.json.decode(self._file.read_bytes(), type=_Remembered)
        except (OSError, msgspec.DecodeError, RecursionError):
            return None
        same = (remembered.release, remembered.wanted) == (self._release, self._wanted)
        return remembered if same else None
