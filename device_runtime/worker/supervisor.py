"""Keeps one inference process running and gives it the requests in the order they came."""

import asyncio
import logging
import signal
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from device_runtime.errors import DeviceError, EngineError, ServiceError
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.logs import event
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

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
FAILING_AFTER = 3
"""Children in a row that end before they have answered anything: then requests are refused."""
SILENT_S = 60.0
"""Shortest silence, seconds, after which a process that works on requests is replaced. A request
may be allowed less than one step of a long prompt takes on a slow device."""
EXIT_S = 5.0
"""How long a process that has closed its pipe may take to end by itself, seconds."""


class BusyError(ServiceError):
    """The request cannot be taken now; a later one may be.

    Attributes:
        retry_after_s: when to try again, seconds.
    """

    api_code = "model_unavailable"
    refuses = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, hint=f"Try again in {retry_after_s} s.")
        self.retry_after_s: int = retry_after_s


class QueueFullError(BusyError):
    """As many requests wait as may."""

    http_status = 429
    api_code = "queue_full"


class DeadlineError(ServiceError):
    """A request took longer than it may."""

    http_status = 504
    api_code = "deadline_exceeded"


def restart_delay_s(failures: int) -> float:
    """Seconds to wait after so many children in a row that ended without an answer."""
    # Bounded before it is a power: after 1,024 doublings it would be more than a float can hold.
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 20), LONGEST_DELAY_S)


class _Job:
    """A request on its way.

    Attributes:
        events: chunks, then an error if there is one.
    """

    def __init__(self, number: int, request: GenerationRequest) -> None:
        self.number = number
        self.request = request
        self.events: asyncio.Queue[GenerationChunk | DeviceError] = asyncio.Queue()


class Supervisor:
    """The inference process, its queue and its restarts.

    A process that ends takes the requests it worked on with it: those fail, the ones that wait go
    to its successor. Restarts back off, so a model that cannot load does not keep a device busy. A
    process that cannot be started counts as one that ended, and one that works on requests without
    a word for longer than any request may take is ended.

    Args:
        command: starts the process, as `worker.command` gives it.
        parallel: requests that are answered at the same time.
        queue_limit: requests that wait beside them.
        timeout_s: how long a request may take from its coming to its end, seconds.
        system_prompt: what conversations begin with; each new process prepares it.

    Attributes:
        restarts: processes that were started to replace one that had ended.
        last_error: why the last one ended; empty if none did.
    """

    def __init__(
        self,
        command: list[str],
        *,
        parallel: int = 2,
        queue_limit: int = 8,
        timeout_s: float = 600,
        system_prompt: str = "",
    ) -> None:
        self._health = Health.STARTING
        self.restarts = 0
        self.last_error = ""
        self._command = command
        self._parallel = parallel
        self._queue_limit = queue_limit
        self._timeout_s = timeout_s
        self._system_prompt = system_prompt
        self._silence: asyncio.TimerHandle | None = None
        self._silent: EngineError | None = None
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
        """Health of the process; READY only of one that has loaded the model and is running."""
        if self._health is Health.READY and (not self._loaded or is_stopped(self.pid)):
            return Health.DEGRADED
        return self._health

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one now."""
        child = self._child  # Read once: other threads come here while it changes.
        return child.pid if child is not None else None

    @property
    def queue_length(self) -> int:
        """Requests that wait; those being answered are not counted."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    async def start(self) -> None:
        """Start the process and wait until it has loaded the model; then keep it running.

        Raises:
            EngineError: the model does not load, this first time.
        """
        self._first_load = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._supervise())
        await self._first_load

    async def ended(self) -> None:
        """Wait until the process is no longer supervised; raises what brought that about."""
        assert self._task is not None
        await asyncio.shield(self._task)

    def refuse(self) -> None:
        """End all requests with an error and take no more."""
        self._health = Health.STOPPING
        self._fail_all(ServiceError("the service is stopping"))

    async def stop(self) -> None:
        """End the process; requests that are still there fail."""
        self.refuse()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """Answer a request when its turn comes; closing the iterator cancels it.

        Raises:
            BusyError: the queue is full, or no process can load the model.
            DeadlineError: it took too long, waiting included.
            RequestError: the model cannot take the request.
            EngineError: the process failed while it worked on this request.
        """
        if self._health in (Health.FAILING, Health.STOPPING):
            raise BusyError("the model is not available", retry_after_s=30)
        if len(self._waiting) >= self._queue_limit and not self._may_start():
            raise QueueFullError(
                f"{len(self._running)} requests are being answered and {len(self._waiting)} wait",
                retry_after_s=5,
            )
        self._number += 1
        job = _Job(self._number, request)
        late = DeadlineError(
            f"the request took more than {self._timeout_s:g} s",
            hint="Ask for less, or raise request_timeout.",
        )
        deadline = asyncio.get_running_loop().call_later(
            self._timeout_s, job.events.put_nowait, late
        )
        self._waiting.append(job)
        self._advance()
        try:
            while True:
                news = await job.events.get()
                if isinstance(news, DeviceError):
                    raise news
                yield news
                if news.usage is not None:
                    return
        finally:
            deadline.cancel()
            self._abandon(job)

    def _abandon(self, job: _Job) -> None:
        """Nobody waits for this job any more; does nothing if it has ended."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job.number in self._running:
            self._send(Cancel(id=job.number))

    def _may_start(self) -> bool:
        return self._loaded and len(self._running) < self._parallel

    def _advance(self) -> None:
        """Hand the next requests to the process if it takes them."""
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
        """Give the process the longest silence, from now on, if it works on requests."""
        if self._silence is not None:
            self._silence.cancel()
        if self._running:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(max(self._timeout_s, SILENT_S), self._on_silence)

    def _on_silence(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._silent = EngineError("the inference process did not answer, and was ended")
            self._child.kill()

    async def _supervise(self) -> None:
        """Keep a process running; if that fails, nobody waits in vain."""
        try:
            await self._keep_running()
        except Exception as error:
            self._health = Health.FAILING
            failure = ServiceError(f"the inference process is not supervised: {error!r}")
            self._fail_all(failure)
            if not self._first_load.done():
                self._first_load.set_exception(failure)
            raise

    async def _keep_running(self) -> None:
        """Start a process, serve with it until it ends, wait, start the next."""
        while True:
            error = await self._run_child()
            self._failures += 1
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
        """One process from start to end; why it ended, or why there is none."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        except (OSError, RuntimeError) as reason:
            # RuntimeError: Python cannot start the thread that waits for the process.
            hint = "Has the program been moved, or does the device lack memory or processes?"
            return EngineError(f"the inference process cannot be started: {reason}", hint=hint)
        if self._failures:
            self.restarts += 1
        self._child, self._silent = child, None
        try:
            error = await self._listen(child)
            self._loaded = False
            status = await _end_of(child)
        finally:
            # Only a service that stops comes here with the process alive.
            if child.returncode is None:
                child.kill()
                await child.wait()
            self._child, self._loaded = None, False
        return error or self._silent or _ended(status)

    async def _listen(self, child: asyncio.subprocess.Process) -> EngineError | None:
        """Pass on what the process says until it ends; its reason, if it gave one."""
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
            return EngineError(f"the inference process sent what is not a message: {error}")
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
        news = message.chunk if isinstance(message, Chunk) else message.error
        job.events.put_nowait(news)
        if isinstance(news, DeviceError) or news.usage is not None:
            del self._running[job.number]
        if not isinstance(news, DeviceError) and news.usage is not None:
            self._failures = 0


async def _end_of(child: asyncio.subprocess.Process) -> int:
    """Exit status of a process that has closed its pipe."""
    try:
        return await asyncio.wait_for(child.wait(), EXIT_S)
    except TimeoutError:
        child.kill()
        return await child.wait()


def _ended(status: int) -> EngineError:
    """Error of a process that ended with this status and gave no reason."""
    how = f"ended with exit code {status}" if status >= 0 else f"was ended by signal {-status}"
    with suppress(ValueError):
        how = f"was ended by {signal.Signals(-status).name}"
    hint = "The log above may tell why; a lack of memory ends it with SIGKILL."
    return EngineError(f"the inference process {how}", hint=hint)
