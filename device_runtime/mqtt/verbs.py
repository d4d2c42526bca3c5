"""The verbs of commands, and what each does. All but `ping` must be allowed: `mqtt_commands`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from device_runtime.api.errors import ApiError
from device_runtime.bench.results import Benchmark
from device_runtime.errors import DeviceError
from device_runtime.inference.engine import GenerationChunk
from device_runtime.mqtt import health
from device_runtime.mqtt.commands import Call, CommandError, Handler, Tell
from device_runtime.mqtt.updates import Updates
from device_runtime.status.report import RuntimeStatus
from device_runtime.worker.health import Health

RESTART_S = 300.0
"""Time in which a new inference process must be ready."""
FLUSH_S = 0.25
"""Shortest time between two pieces of an answer: a message a token is too many."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_Result = dict[str, Any]


class Worker(Protocol):
    """The inference process: the supervisor, or a fake."""

    def restart(self) -> None:
        """See `Supervisor.restart`."""
        ...


class Integrity(Protocol):
    """The files of the release, or a fake."""

    async def check(self) -> str:
        """See `status.integrity.Integrity.check`."""
        ...


Chat = Callable[[bytes], AsyncGenerator[GenerationChunk]]
"""Function that answers a chat request, as `Api.chat` does."""


class Bench(Protocol):
    """The measurement of the speed, or a fake."""

    async def __call__(self, *, whole: bool) -> Benchmark:
        """See `benchmark.run`."""
        ...


class Verbs:
    """The verbs of a service.

    Args:
        worker: the inference process.
        chat: answers a chat request.
        bench: measures the speed.
        status: returns the current status.
        updates: updates the device.
        integrity: checks the files of the release.
        examine: checks the device; may take seconds.
        reload: begins a new start of the service, and returns; raises DeviceError if its
            configuration is not valid.
    """

    def __init__(
        self,
        worker: Worker,
        chat: Chat,
        bench: Bench,
        status: Callable[[], RuntimeStatus],
        updates: Updates,
        integrity: Integrity,
        examine: Callable[[], Sequence[object]],
        reload: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._chat = chat
        self._measure = bench
        self._status = status
        self._updates = updates
        self._integrity = integrity
        self._examine = examine
        self._reload_service = reload
        self._answers: dict[str, asyncio.Task[_Result]] = {}

    def allowed(self, names: Collection[str]) -> dict[str, Handler]:
        """Return the functions of some verbs by name."""
        own = {"update": self._updates.update, "rollback": self._updates.rollback}
        return {name: own.get(name) or getattr(self, f"_{name}") for name in names}

    async def _ping(self, _: Call) -> _Result:
        status = self._status()
        return {"health": status.health, "uptime_s": status.uptime_s}

    async def _diagnostics(self, _: Call) -> _Result:
        status = self._status()
        doctor = await asyncio.to_thread(self._examine)
        report = {"status": status, "checks": health.findings(status), "doctor": doctor}
        result: _Result = msgspec.to_builtins(report)
        return result

    async def _log_level(self, call: Call) -> _Result:
        level = str(call.arguments.get("level", "")).upper()
        if level not in LEVELS:
            raise CommandError(f"level must be one of: {', '.join(LEVELS).lower()}")
        logger = logging.getLogger("device_runtime")
        before = logging.getLevelName(logger.getEffectiveLevel())
        logger.setLevel(level)
        return {"before": before.lower()}

    async def _restart(self, _: Call) -> _Result:
        """Replace the inference process; requests that are running fail."""
        ends = self._status().worker_ends
        if self._status().health is Health.UNLOADED:
            return {"seconds": 0.0}  # the next request starts another
        self._worker.restart()
        return await self._ready(lambda status: status.worker_ends > ends)

    async def _reload(self, call: Call) -> _Result:
        """Start the service again with its configuration as it is now."""
        if not call.resumed:
            try:
                self._reload_service()
            except DeviceError as error:
                raise CommandError(str(error)) from None
            await asyncio.Event().wait()  # the next start resumes this command
        return await self._ready(lambda _: True)

    async def _ready(self, restarted: Callable[[RuntimeStatus], bool]) -> _Result:
        """Wait until the service is ready; return the seconds that it took.

        Args:
            restarted: returns whether a status is one after the restart.
        """
        started = time.monotonic()
        ready = (Health.READY, Health.UNLOADED)
        while not restarted(status := self._status()) or status.health not in ready:
            if time.monotonic() > started + RESTART_S:
                raise CommandError(f"not ready after {RESTART_S:g} s: {status.last_error}")
            await asyncio.sleep(0.2)
        return {"seconds": round(time.monotonic() - started, 1)}

    async def _bench(self, call: Call) -> _Result:
        """Measure the speed; requests that are answered meanwhile slow it down."""
        whole = call.arguments.get("whole", False)
        if not isinstance(whole, bool):
            raise CommandError("whole must be true or false")
        try:
            result = await self._measure(whole=whole)
        except DeviceError as error:
            raise CommandError(str(error)) from None
        # The figures of a user who asks something short, where simple readers look for them.
        plain = {
            "tokens_per_s": result.decode[0].tokens_per_s.median if result.decode else None,
            "first_token_s": result.prefill[0].first_token_s.median if result.prefill else None,
        }
        return plain | msgspec.to_builtins(result)  # type: ignore[no-any-return]

    async def _verify(self, _: Call) -> _Result:
        """Compare all files of the release with its manifest."""
        if damage := await self._integrity.check():
            raise CommandError(damage)
        return {}

    async def _generate(self, call: Call) -> _Result:
        """Answer a chat request, of one answer without tools, piece by piece."""
        if call.arguments.get("tools") or call.arguments.get("n", 1) != 1:
            raise CommandError("tools and more than one answer are not possible over MQTT")
        task = asyncio.ensure_future(self._answer(msgspec.json.encode(call.arguments), call.tell))
        self._answers[call.id] = task
        try:
            return await task
        except asyncio.CancelledError:
            raise CommandError("cancelled") from None
        finally:
            del self._answers[call.id]

    async def _answer(self, body: bytes, tell: Tell) -> _Result:
        result: _Result = {}
        waiting: list[str] = []
        told = time.monotonic()
        try:
            async with aclosing(self._chat(body)) as chunks:
                async for chunk in chunks:
                    waiting.append(chunk.text)
                    if chunk.usage is not None:
                        usage = msgspec.to_builtins(chunk.usage)
                        result = {"finish_reason": chunk.finish_reason, "usage": usage}
                    if time.monotonic() >= told + FLUSH_S and any(waiting):
                        tell("".join(waiting))
                        waiting.clear()
                        told = time.monotonic()
        except ApiError as error:
            raise CommandError(str(error)) from None
        finally:
            if any(waiting):
                tell("".join(waiting))
        return result

    async def _cancel(self, call: Call) -> _Result:
        """End the answer to the `generate` with an id."""
        task = self._answers.get(str(call.arguments.get("id")))
        if task is None:
            raise CommandError("no answer with this id is being generated")
        task.cancel()
        return {}
