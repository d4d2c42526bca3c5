"""Supervision of the inference process: a FIFO queue of requests, and restarts with back-off."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial

import msgspec

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import DeviceError, EngineError, ServiceError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.logs import event
from device_runtime.worker.child_exit import exit_error, exit_status
from device_runtime.worker.errors import BusyError, DeadlineError, QueueFullError
from device_runtime.worker.health import Health, is_stopped
from device_runtime.worker.messages import (
    FOR_PARENT,
    Cancel,
    Chunk,
    Failed,
    Generate,
    Loaded,
    ToChild,
    Warm,
    frame,
    receive,
)
from device_runtime.worker.self_check import check

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
FAILING_AFTER = 3
"""Consecutive children that end without an answer, after which requests are refused."""
STOPPED_S = 30.0
"""Time after which a process that is stopped is replaced."""
ENDING_S = 30.0
"""Time in which a killed process must have ended; one that waits for a broken disk has not."""
SILENT_S = 60.0
"""Shortest silence after which a process with running requests is replaced, seconds. A request's
timeout may be shorter than one prefill step takes on a slow device."""


def restart_delay_s(failures: int) -> float:
    """Return the back-off after consecutive children that ended without an answer, seconds."""
    # The exponent is bounded: 1,024 doublings would overflow a float.
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 20), LONGEST_DELAY_S)


class _Job:
    """A queued or running request.

    Attributes:
        number: number of the request.
        request: the request itself.
        checks: whether it belongs to the self-check, for which all others wait.
        events: chunks of the answer, then the error if it fails.
    """

    def __init__(self, number: int, request: GenerationRequest, *, checks: bool) -> None:
        self.number = number
        self.request = request
        self.checks = checks
        self.events: asyncio.Queue[GenerationChunk | DeviceError] = asyncio.Queue()


class Supervisor:
    """The inference process, its queue and its restarts.

    When a process ends, its running requests fail and the queued ones go to its replacement.
    Restarts back off, so that a model that cannot load does not keep a device busy. A process that
    cannot be started counts as one that ended. A process with running requests that is silent for
    longer than the request timeout is killed.

    Args:
        command: command that starts the process, from `process.command`.
        parallel: maximum number of requests answered concurrently.
        queue_limit: maximum number of queued requests.
        timeout_s: timeout of a request from its arrival to its end, seconds.
        system_prompt: system prompt of conversations; each new process prefills it.
        probe: prompt and tokens to check the first process with; None for no check.

    Attributes:
        self_check: result of that check; None before its end.
        ends: number of processes that ended, or could not be started.
        restarts: number of processes that were started to replace one that had ended.
        last_error: reason the last process ended; empty if none has ended.
    """

    def __init__(
        self,
        command: list[str],
        *,
        parallel: int = 2,
        queue_limit: int = 8,
        timeout_s: float = 600,
        system_prompt: str = "",
        probe: Probe | None = None,
    ) -> None:
        self._health = Health.STARTING
        self.self_check: SelfCheck | None = None
        self.ends = 0
        self.restarts = 0
        self.last_error = ""
        self._command = command
        self._parallel = parallel
        self._queue_limit = queue_limit
        self._timeout_s = timeout_s
        self._system_prompt = system_prompt
        self._probe = probe
        self._silence: asyncio.TimerHandle | None = None
        self._killed: EngineError | None = None
        self._killed_at = 0.0
        self._child: asyncio.subprocess.Process | None = None
        self._loaded = False
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._number = 0
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
        return self._killed is not None and time.monotonic() > self._killed_at + ENDING_S

    @property
    def queue_length(self) -> int:
        """Number of queued requests; running ones are not counted."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of running requests."""
        return len(self._running)

    @property
    def _checking(self) -> bool:
        return self._probe is not None and self.self_check is None

    async def start(self) -> None:
        """Start the process, wait until it has loaded the model, check it; then keep it running.

        A check that fails is reported, and the model serves all the same: a device must not lose
        its service over it.

        Raises:
            EngineError: the model does not load in this first process.
        """
        self._first_load = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._supervise())
        await self._first_load
        if self._probe is not None:
            self.self_check = await check(partial(self.generate, checks=True), self._probe)
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
        self._fail_all(ServiceError("the service is stopping"))

    def restart(self) -> None:
        """End the process, so that another takes its place; its running requests fail."""
        self._kill("the inference process was restarted by a command")

    async def stop(self) -> None:
        """Stop the process; requests that are still running or queued fail."""
        self.refuse()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def generate(
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
        if self._health in (Health.FAILING, Health.STOPPING):
            raise BusyError("the model is not available", retry_after_s=30)
        if len(self._waiting) >= self._queue_limit and not (self._may_start() or checks):
            raise QueueFullError(
                f"the queue is full: {len(self._running)} requests running, "
                f"{len(self._waiting)} waiting",
                retry_after_s=5,
            )
        self._number += 1
        job = _Job(self._number, request, checks=checks)
        late = DeadlineError(
            f"the request took more than {self._timeout_s:g} s",
            hint="Lower max_tokens, or raise request_timeout.",
        )
        deadline = asyncio.get_running_loop().call_later(
            self._timeout_s, job.events.put_nowait, late
        )
        self._waiting.insert(0 if checks else len(self._waiting), job)
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

    def _abandon(self, job: _Job) -> None:
        """Cancel a job whose client is gone; do nothing if it has ended."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job.number in self._running:
            self._send(Cancel(id=job.number))

    def _may_start(self) -> bool:
        allowed = not self._checking or (bool(self._waiting) and self._waiting[0].checks)
        return allowed and self._loaded and len(self._running) < self._parallel

    def _advance(self) -> None:
        """Send queued requests to the process while it has room for them."""
        while self._waiting and self._may_start():
            job = self._waiting.popleft()
            self._running[job.number] = job
            self._send(Generate(id=job.number, request=job.request))
            self._expect_answer()

    def _send(self, message: ToChild) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(frame(message))

    def _fail_running(self, error: DeviceError) -> None:
        for job in self._running.values():
            job.events.put_nowait(error)
        self._running.clear()
        self._expect_answer()

    def _fail_all(self, error: DeviceError) -> None:
        self._fail_running(error)
        while self._waiting:
            self._waiting.popleft().events.put_nowait(error)

    def _expect_answer(self) -> None:
        """Restart the silence timer if the process has running requests."""
        if self._silence is not None:
            self._silence.cancel()
        if self._running:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(max(self._timeout_s, SILENT_S), self._on_silence)

    def _on_silence(self) -> None:
        self._kill("the inference process did not respond and was killed")

    def _kill(self, reason: str) -> None:
        if self._child is not None and self._child.returncode is None:
            self._killed, self._killed_at = EngineError(reason), time.monotonic()
            self._child.kill()

    async def _supervise(self) -> None:
        """Keep a process running; if supervision itself fails, fail all requests."""
        try:
            await self._keep_running()
        except Exception as error:
            self._health = Health.FAILING
            failure = ServiceError(f"the supervisor failed: {error!r}")
            self._fail_all(failure)
            if not self._first_load.done():
                self._first_load.set_exception(failure)
            raise

    async def _keep_running(self) -> None:
        """Start a process, serve until it ends, back off, start the next."""
        while True:
            error = await self._run_child()
            self._failures += 1
            self.ends += 1
            self.last_error = str(error)
            event(log, logging.ERROR, "worker_ended", failures=self._failures, error=error)
            if not self._first_load.done():
                self._health = Health.FAILING
                self._fail_all(error)
                self._first_load.set_exception(error)
                return
            self._fail_running(error)
            self._health = Health.DEGRADED
            if self._failures >= FAILING_AFTER:
                self._health = Health.FAILING
                self._fail_all(error)
            await asyncio.sleep(restart_delay_s(self._failures))

    async def _run_child(self) -> EngineError:
        """Run one process from start to end; return why it ended or could not be started."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        except (OSError, RuntimeError) as reason:
            # RuntimeError: Python cannot start the thread that waits for the process.
            hint = "Check whether the program was moved and the device has free memory and PIDs."
            return EngineError(f"the inference process cannot be started: {reason}", hint=hint)
        if self._failures:
            self.restarts += 1
        self._child, self._killed = child, None
        watch = asyncio.create_task(self._watch(child))
        try:
            error = await self._listen(child)
            self._loaded = False
            status = await exit_status(child)
        finally:
            watch.cancel()
            # The process is alive here only if the service is stopping.
            if child.returncode is None:
                child.kill()
                await child.wait()
            self._child, self._loaded = None, False
        killed, self._killed = self._killed, None
        return error or killed or exit_error(status)

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        """Replace a process that stays stopped: nobody else would notice while it is idle."""
        seconds = 0.0
        while seconds < STOPPED_S:
            await asyncio.sleep(1)
            seconds = seconds + 1 if is_stopped(child.pid) else 0
        self._kill(f"the inference process was stopped for {STOPPED_S:g} s")

    async def _listen(self, child: asyncio.subprocess.Process) -> EngineError | None:
        """Dispatch the process's messages until it ends; return its error if it sent one."""
        assert child.stdout is not None
        try:
            while (message := await receive(child.stdout, FOR_PARENT)) is not None:
                if isinstance(message, Loaded):
                    self._on_loaded(message)
                elif isinstance(message, Failed) and message.id is None:
                    return EngineError(message.message, hint=message.hint)
                else:
                    self._on_event(message)
                self._expect_answer()
                self._advance()
        except msgspec.MsgspecError as error:
            child.kill()
            return EngineError(f"the inference process sent data that is not a message: {error}")
        return None

    def _on_loaded(self, message: Loaded) -> None:
        event(log, logging.INFO, "worker_loaded", seconds=round(message.seconds, 2))
        self._loaded = True
        self._send(Warm(system=self._system_prompt))
        self._health = Health.READY
        if not self._first_load.done():
            self._first_load.set_result(None)

    def _on_event(self, message: Chunk | Failed) -> None:
        job = self._running.get(message.id) if message.id is not None else None
        if job is None:
            return
        outcome = message.chunk if isinstance(message, Chunk) else message.error
        job.events.put_nowait(outcome)
        if isinstance(outcome, DeviceError) or outcome.usage is not None:
            del self._running[job.number]
        if not isinstance(outcome, DeviceError) and outcome.usage is not None:
            self._failures = 0
