"""Keeps one inference process running and gives it the requests in the order they came."""

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from device_runtime.engine import GenerationChunk, GenerationRequest
from device_runtime.errors import DeviceError, EngineError, ServiceError
from device_runtime.logs import event
from device_runtime.messages import (
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
from device_runtime.status import Health

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
FAILING_AFTER = 3
"""Children in a row that end before they have answered anything: then requests are refused."""


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


def worker_command(
    release_folder: Path,
    threads: int,
    *,
    kv_cache_mib: int = 0,
) -> list[str]:
    """How to start the inference process: this program again, frozen or from source.

    Args:
        release_folder: holds the model.
        threads: of ONNX Runtime.
        kv_cache_mib: memory for KV caches; 0 leaves it to the engine.
    """
    program = [sys.executable, "-m", "device_runtime"]
    if getattr(sys, "frozen", False):
        # Resolved now: once an update has moved the link `current`, its name means another release.
        program = [str(Path(sys.executable).resolve())]
    return [
        *(*program, "worker", "--parent", str(os.getpid()), "--release", str(release_folder)),
        *("--threads", str(threads), "--kv-cache-mib", str(kv_cache_mib)),
    ]


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
    to its successor. Restarts back off, so a model that cannot load does not keep a device busy.

    Args:
        command: starts the process, as `worker_command` gives it.
        parallel: requests that are answered at the same time.
        queue_limit: requests that wait beside them.
        timeout_s: how long a request may take from its coming to its end, seconds.
        system_prompt: what conversations begin with; each new process prepares it.

    Attributes:
        health: how the process is.
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
        self.health = Health.STARTING
        self.restarts = 0
        self.last_error = ""
        self._command = command
        self._parallel = parallel
        self._queue_limit = queue_limit
        self._timeout_s = timeout_s
        self._system_prompt = system_prompt
        self._child: asyncio.subprocess.Process | None = None
        self._loaded = False
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._number = 0
        self._failures = 0
        self._first_load: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one now."""
        return self._child.pid if self._child is not None else None

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
        self._task = asyncio.create_task(self._keep_running())
        await self._first_load

    def refuse(self) -> None:
        """End all requests with an error and take no more."""
        self.health = Health.STOPPING
        self._fail_all(ServiceError("the service is stopping"))

    async def stop(self) -> None:
        """End the process; requests that are still there fail."""
        self.refuse()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """Answer a request when its turn comes; closing the iterator cancels it.

        Raises:
            BusyError: the queue is full, or no process can load the model.
            DeadlineError: it took too long, waiting included.
            RequestError: the model cannot take the request.
            EngineError: the process failed while it worked on this request.
        """
        if self.health in (Health.FAILING, Health.STOPPING):
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

    def _send(self, message: ToChild) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(frame(message))

    def _fail_running(self, error: DeviceError) -> None:
        for job in self._running.values():
            job.events.put_nowait(error)
        self._running.clear()

    def _fail_all(self, error: DeviceError) -> None:
        self._fail_running(error)
        while self._waiting:
            self._waiting.popleft().events.put_nowait(error)

    async def _keep_running(self) -> None:
        """Start a process, serve with it until it ends, wait, start the next."""
        while True:
            error = await self._run_child()
            self._failures += 1
            self.last_error = str(error)
            event(log, logging.ERROR, "worker_ended", failures=self._failures, error=error)
            assert self._first_load is not None
            if not self._first_load.done():
                self.health = Health.FAILING
                self._fail_all(error)
                self._first_load.set_exception(error)
                return
            self._fail_running(error)
            if self._failures >= FAILING_AFTER:
                self.health = Health.FAILING
                self._fail_all(error)
            else:
                self.health = Health.DEGRADED
            delay = min(FIRST_DELAY_S * 2 ** (self._failures - 1), LONGEST_DELAY_S)
            await asyncio.sleep(delay)
            self.restarts += 1

    async def _run_child(self) -> EngineError:
        """One process from start to end; why it ended."""
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self._child = child
        error: EngineError | None = None
        try:
            error = await self._listen(child)
            status = await child.wait()
        finally:
            # Only a service that stops comes here with the process alive.
            if child.returncode is None:
                child.kill()
                await child.wait()
            self._child, self._loaded = None, False
        return error or EngineError(
            f"the inference process {_describe(status)}",
            hint="The log above may tell why; a lack of memory ends it with SIGKILL.",
        )

    async def _listen(self, child: asyncio.subprocess.Process) -> EngineError | None:
        """Pass on what the process says until it ends; its reason, if it gave one."""
        assert child.stdout is not None
        while (message := await receive(child.stdout, FOR_PARENT)) is not None:
            if isinstance(message, Loaded):
                self._on_loaded(message)
            elif isinstance(message, Failed) and message.id is None:
                return EngineError(message.message, hint=message.hint)
            else:
                self._on_event(message)
            self._advance()
        return None

    def _on_loaded(self, message: Loaded) -> None:
        event(log, logging.INFO, "worker_loaded", seconds=round(message.seconds, 2))
        self._loaded = True
        self._send(Warm(system=self._system_prompt))
        self.health = Health.READY
        assert self._first_load is not None
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


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
