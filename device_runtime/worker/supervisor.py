"""Supervision of the inference process: a FIFO queue of requests, and restarts with back-off."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import msgspec

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import DeviceError, EngineError, ServiceError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.logs import event
from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest
from device_runtime.worker import messages
from device_runtime.worker.child import Child
from device_runtime.worker.errors import BusyError, DeadlineError, QueueFullError
from device_runtime.worker.health import Health, is_stopped
from device_runtime.worker.jobs import Job, Jobs
from device_runtime.worker.placement import Placement
from device_runtime.worker.restarts import FAILING_AFTER, restart_delay_s
from device_runtime.worker.self_check import check
from device_runtime.worker.silence import Silence

log = logging.getLogger(__name__)

WATCH_S = 1.0
"""Time between two looks at the process."""
STOPPED_S = 30.0
"""Time after which a process that is stopped is replaced."""
SILENT_S = 60.0
"""Shortest silence after which a process with running requests is replaced, seconds. A request's
timeout may be shorter than one prefill step takes on a slow device."""


class Supervisor:
    """The inference process, its queue and its restarts.

    When a process ends, its running requests fail and the queued ones go to its replacement.
    Restarts back off, so that a model that cannot load does not keep a device busy. A process that
    cannot be started counts as one that ended. A process with running requests that is silent for
    longer than the request timeout is killed. A GPU that fails is given up for the CPU.

    Args:
        placement: processor that the model runs on.
        parallel: maximum number of requests answered concurrently.
        queue_limit: maximum number of queued requests.
        timeout_s: timeout of a request from its arrival to its end, seconds.
        system_prompt: system prompt of conversations; each new process prefills it.
        probe: prompt and tokens to check the first process with; None for no check.
        unload_after_s: time without a request after which the process ends, until the next one,
            seconds; 0 for never.

    Attributes:
        self_check: result of that check; None before its end.
        ends: number of processes that ended, or could not be started.
        restarts: number of processes that were started to replace one that had ended.
        last_error: reason the last process ended; empty if none has ended.
        share: share of the time in which the model computes.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        parallel: int = 2,
        queue_limit: int = 8,
        timeout_s: float = 600,
        system_prompt: str = "",
        probe: Probe | None = None,
        unload_after_s: float = 0,
    ) -> None:
        self._health = Health.STARTING
        self.self_check: SelfCheck | None = None
        self.ends = 0
        self.restarts = 0
        self.last_error = ""
        self.share = 1.0
        self._placement = placement
        self._parallel = parallel
        self._queue_limit = queue_limit
        self._timeout_s = timeout_s
        self._system_prompt = system_prompt
        self._probe = probe
        self._unload_after_s = unload_after_s
        self._silence = Silence(
            max(timeout_s, SILENT_S), lambda: bool(self._jobs.running), self._on_silence
        )
        self._child: Child | None = None
        self._loaded = False
        self._jobs = Jobs()
        self._wanted = asyncio.Event()
        self._failures = 0
        self._first_load: asyncio.Future[None]
        self._task: asyncio.Task[None] | None = None

    @property
    def health(self) -> Health:
        """Health of the process; READY only if it is checked, has the model and is running."""
        if self._health is Health.READY and (not self._loaded or is_stopped(self.pid)):
            return Health.DEGRADED
        if self._health is Health.READY and self._checking:
            return Health.STARTING
        return self._health

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        child = self._child  # Read once: other threads call this while it changes.
        return child.pid if child is not None else None

    @property
    def stuck(self) -> bool:
        """True if a process was killed and does not end."""
        return self._child is not None and self._child.stuck

    @property
    def queue_length(self) -> int:
        """Number of queued requests; running ones are not counted."""
        return len(self._jobs.waiting)

    @property
    def running(self) -> int:
        """Number of running requests."""
        return len(self._jobs.running)

    @property
    def _checking(self) -> bool:
        return self._probe is not None and self.self_check is None

    async def start(self) -> None:
        """Choose the processor, start the process, check its model; then keep it running.

        A check that fails is reported, and the model serves all the same: a device must not lose
        its service over it.

        Raises:
            EngineError, ResourceError: the model does not load in this first process.
        """
        await self._placement.settle()
        self._first_load = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._supervise())
        await self._first_load
        if self._probe is not None:
            checked = partial(check, partial(self.generate, checks=True), self._probe)
            outcome = await checked()
            if not outcome.passed and self._placement.fall_back(outcome.detail):
                self._kill("the GPU computes wrongly")
                outcome = await checked()
            self.self_check = outcome
            level = logging.INFO if self.self_check.passed else logging.ERROR
            event(log, level, "self_check", **msgspec.structs.asdict(self.self_check))
            self._advance()

    async def ended(self) -> None:
        """Wait until supervision ends; raise the error that ended it."""
        assert self._task is not None
        await asyncio.shield(self._task)

    def refuse(self) -> None:
        """Fail all requests and accept no more."""
        self._health = Health.STOPPING
        self._jobs.fail_all(ServiceError("the service is stopping"))
        self._silence.restart()

    def restart(self) -> None:
        """End the process, so that another takes its place; its running requests fail."""
        self._kill("the inference process was restarted by a command")

    def unload(self, reason: str) -> None:
        """Take the model out of memory until the next request; running requests fail.

        Args:
            reason: reason, for the log and those requests.
        """
        if self._jobs.running:
            self._kill(reason)
        elif self._loaded:
            self._retire(reason)

    def pace(self, share: float) -> None:
        """Have the model compute for a share of the time only, from now on."""
        self.share = share
        self._send(messages.Pace(share=share))

    async def stop(self) -> None:
        """Stop the process; requests that are still running or queued fail."""
        self.refuse()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def generate(
        self, request: GenerationRequest, *, checks: bool = False
    ) -> AsyncGenerator[GenerationChunk]:
        """Queue a request and yield its chunks; closing the iterator cancels the request.

        Args:
            request: the request.
            checks: the request belongs to the self-check and goes before all others.

        Raises:
            BusyError: the queue is full, or no process can load the model.
            DeadlineError: the request exceeded its timeout, queueing included.
            RequestError: the model cannot take the request.
            EngineError: the process failed while it ran this request.
        """
        return self._chunks(request, checks=checks)

    def embed(self, request: EmbeddingRequest) -> AsyncGenerator[EmbeddingChunk]:
        """Queue texts to embed and yield their vectors; see `generate`."""
        return self._chunks(request)

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionChunk]:
        """Queue a recording and yield its text; see `generate`."""
        return self._chunks(request)

    async def _chunks(
        self, request: messages.AnyRequest, *, checks: bool = False
    ) -> AsyncGenerator[Any]:
        """Queue a request and yield its chunks, which are of the kind that belongs to it."""
        if self._health in (Health.FAILING, Health.STOPPING):
            raise BusyError("the model is not available", retry_after_s=30)
        if self.queue_length >= self._queue_limit and not (self._may_start() or checks):
            raise QueueFullError(
                f"the queue is full: {self.running} requests running, {self.queue_length} waiting",
                retry_after_s=5,
            )
        job = self._jobs.add(request, checks=checks)
        self._wanted.set()
        late = DeadlineError(
            f"the request took more than {self._timeout_s:g} s",
            hint=f"{request.quicker}, or raise request_timeout.",
        )
        deadline = asyncio.get_running_loop().call_later(
            self._timeout_s, job.events.put_nowait, late
        )
        self._advance()
        try:
            while True:
                outcome = await job.events.get()
                if isinstance(outcome, DeviceError):
                    raise outcome
                yield outcome
                if outcome.usage is not None:
                    return
        finally:
            deadline.cancel()
            self._abandon(job)

    def _abandon(self, job: Job) -> None:
        """Cancel a job whose client is gone; do nothing if it has ended."""
        if job in self._jobs.waiting:
            self._jobs.waiting.remove(job)
        elif job.number in self._jobs.running:
            self._send(messages.Cancel(id=job.number))

    def _may_start(self) -> bool:
        waiting = self._jobs.waiting
        allowed = not self._checking or (bool(waiting) and waiting[0].checks)
        return allowed and self._loaded and self.running < self._parallel

    def _advance(self) -> None:
        """Send queued requests to the process while it has room for them."""
        while self._jobs.waiting and self._may_start():
            job = self._jobs.begin()
            self._send(messages.Generate(id=job.number, request=job.request))
            self._silence.restart()

    def _send(self, message: messages.ToChild) -> None:
        if self._child is not None:
            self._child.send(message)

    def _on_silence(self) -> None:
        self._kill("the inference process did not respond and was killed")

    def _kill(self, reason: str) -> None:
        if self._child is not None:
            self._loaded = False  # requests go to the next process from now on
            self._child.kill(reason)

    async def _supervise(self) -> None:
        """Keep a process running; if supervision itself fails, fail all requests."""
        try:
            await self._keep_running()
        except Exception as error:
            self._health = Health.FAILING
            failure = ServiceError(f"the supervisor failed: {error!r}")
            self._jobs.fail_all(failure)
            if not self._first_load.done():
                self._first_load.set_exception(failure)
            raise

    async def _keep_running(self) -> None:
        """Start a process, serve until it ends, back off, start the next."""
        while True:
            error = await self._run_child()
            if error is None:
                await self._wait_unloaded()
                continue
            self._failures += 1
            self.ends += 1
            self.last_error = str(error)
            event(log, logging.ERROR, "worker_ended", failures=self._failures, error=error)
            hopeless = self._failures >= FAILING_AFTER or not self._first_load.done()
            if hopeless and self._placement.fall_back(str(error)):
                self._failures = 1
            elif not self._first_load.done():
                self._health = Health.FAILING
                self._jobs.fail_all(error)
                self._first_load.set_exception(error)
                return
            self._jobs.fail_running(error)
            self._silence.restart()
            self._health = Health.DEGRADED
            if self._failures >= FAILING_AFTER:
                self._health = Health.FAILING
                self._jobs.fail_all(error)
            await asyncio.sleep(restart_delay_s(self._failures))

    async def _wait_unloaded(self) -> None:
        """Wait, without a model in memory, for the next request."""
        if not self._jobs and self._health is not Health.STOPPING:
            self._wanted.clear()
            await self._wanted.wait()
        self._health = Health.STARTING

    async def _run_child(self) -> DeviceError | None:
        """Run one process from start to end.

        Returns:
            Reason why it ended or could not be started; None if its model was unloaded.
        """
        try:
            child = await Child.start(self._placement.command)
        except EngineError as error:
            return error
        if self._failures:
            self.restarts += 1
        self._child = child
        watch = asyncio.create_task(self._watch(child))
        try:
            failure = await self._listen(child)
            self._loaded = False
            ended = await child.ended()
            return failure or ended
        finally:
            watch.cancel()
            # The process is alive here only if the service is stopping.
            await child.close()
            self._child, self._loaded = None, False

    async def _watch(self, child: Child) -> None:
        """Replace a process that stays stopped, and unload a model that nobody needs."""
        stopped_s = idle_s = 0.0
        while stopped_s < STOPPED_S:
            await asyncio.sleep(WATCH_S)
            stopped_s = stopped_s + WATCH_S if is_stopped(child.pid) else 0
            idle_s = 0 if self._jobs or not self._loaded else idle_s + WATCH_S
            if self._unload_after_s and idle_s >= self._unload_after_s:
                self._retire("idle")
        self._kill(f"the inference process was stopped for {STOPPED_S:g} s")

    def _retire(self, reason: str) -> None:
        event(log, logging.INFO, "model_unloaded", reason=reason)
        self._loaded, self._health = False, Health.UNLOADED
        assert self._child is not None
        self._child.retire()

    async def _listen(self, child: Child) -> DeviceError | None:
        """Dispatch the process's messages until it ends; return its error if it sent one."""
        try:
            async for message in child.messages():
                if isinstance(message, messages.Loaded):
                    self._on_loaded(message)
                elif isinstance(message, messages.Failed) and message.id is None:
                    return message.error
                else:
                    outcome = (
                        message.chunk if isinstance(message, messages.Chunk) else message.error
                    )
                    if self._jobs.pass_on(message.id, outcome):
                        self._failures = 0
                self._silence.restart()
                self._advance()
        except EngineError as error:
            return error
        return None

    def _on_loaded(self, message: messages.Loaded) -> None:
        event(log, logging.INFO, "worker_loaded", seconds=round(message.seconds, 2))
        self._loaded = True
        self._send(messages.Warm(system=self._system_prompt))
        self._send(messages.Pace(share=self.share))
        self._health = Health.READY
        if not self._first_load.done():
            self._first_load.set_result(None)
