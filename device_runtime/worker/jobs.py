"""The requests of the inference process: those that wait, in order, and those that run."""

import asyncio
from collections import deque

from device_runtime.errors import DeviceError
from device_runtime.worker.messages import AnyChunk, AnyRequest


class Job:
    """A queued or running request.

    Attributes:
        number: number of the request.
        request: the request itself.
        checks: whether it belongs to the self-check, for which all others wait.
        events: chunks of the answer, then the error if it fails.
    """

    def __init__(self, number: int, request: AnyRequest, *, checks: bool) -> None:
        self.number = number
        self.request = request
        self.checks = checks
        self.events: asyncio.Queue[AnyChunk | DeviceError] = asyncio.Queue()


class Jobs:
    """All requests that have not ended.

    Attributes:
        waiting: the queue.
        running: running requests by number.
    """

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, request: AnyRequest, *, checks: bool) -> Job:
        """Queue a request; one of the self-check goes before all others."""
        self._number += 1
        job = Job(self._number, request, checks=checks)
        self.waiting.insert(0 if checks else len(self.waiting), job)
        return job

    def begin(self) -> Job:
        """Take the next request from the queue: it runs from now on."""
        job = self.waiting.popleft()
        self.running[job.number] = job
        return job

    def pass_on(self, number: int | None, outcome: AnyChunk | DeviceError) -> bool:
        """Give a running request its next chunk, or its error.

        Returns:
            Whether the answer has ended well with it.
        """
        job = self.running.get(number) if number is not None else None
        if job is None:
            return False
        job.events.put_nowait(outcome)
        ended = not isinstance(outcome, DeviceError) and outcome.usage is not None
        if ended or isinstance(outcome, DeviceError):
            del self.running[job.number]
        return ended

    def fail_running(self, error: DeviceError) -> None:
        """End all running requests with an error."""
        for job in self.running.values():
            job.events.put_nowait(error)
        self.running.clear()

    def fail_all(self, error: DeviceError) -> None:
        """End all requests with an error."""
        self.fail_running(error)
        while self.waiting:
            self.waiting.popleft().events.put_nowait(error)
