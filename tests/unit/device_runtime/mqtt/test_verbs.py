"""What the verbs do, with an engine that the test drives."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from device_runtime.api.errors import ApiError
from device_runtime.bench.results import Benchmark
from device_runtime.doctor.check import Check
from device_runtime.errors import ServiceError
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.mqtt import verbs as module
from device_runtime.mqtt.commands import Call, CommandError
from device_runtime.mqtt.updates import Updates
from device_runtime.mqtt.verbs import Verbs
from device_runtime.worker.health import Health
from tests.support import benchmarks
from tests.support.statuses import status

REFERENCE = f"oci://127.0.0.1:5000/a/b@sha256:{'0' * 64}"
CHECK = Check(name="disk", status="ok", found="room")
USAGE = Usage(prompt_tokens=3, completion_tokens=3, first_token_s=0.1, decode_s=0.1)


class Engine:
    """An engine that answers `one two three`, word by word."""

    def __init__(self) -> None:
        self.status = status()
        self.closed = 0
        self.endless = False
        self.refuses = False
        self.restarts = 0
        self.reloads = 0
        self.damage = ""
        self.verbs = Verbs(
            self,
            self.chat,
            self.bench,
            lambda: self.status,
            Updates(None),
            self,
            lambda: [CHECK],
            self.reload,
        )

    async def check(self) -> str:
        return self.damage

    async def chat(self, body: bytes) -> AsyncGenerator[GenerationChunk]:
        if self.refuses:
            raise ApiError("messages must not be empty")
        try:
            for text in ("", "one ", "two "):
                yield GenerationChunk(text=text)
                await asyncio.sleep(0.01)
            while self.endless:
                yield GenerationChunk(text="again ")
                await asyncio.sleep(0.01)
            yield GenerationChunk(text="three", finish_reason=FinishReason.STOP, usage=USAGE)
        finally:
            self.closed += 1

    async def bench(self, *, whole: bool) -> Benchmark:
        if self.refuses:
            raise ServiceError("the model is not available")
        return benchmarks.benchmark(contexts=(0, 512) if whole else (0,))

    def restart(self) -> None:
        self.restarts += 1
        self.status = status(worker_ends=1, health=Health.DEGRADED)

    def reload(self) -> None:
        if self.refuses:
            raise ServiceError("queue_limit: not a number")
        self.reloads += 1

    async def do(
        self, verb: str, told: list[str], *, resumed: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        call = Call("name", "key", arguments, told.append, resumed)
        return await self.verbs.allowed([verb])[verb](call)


def test_generate_tells_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for flush_s in (0.0, 60.0):
        monkeypatch.setattr(module, "FLUSH_S", flush_s)
        engine, told = Engine(), list[str]()
        result = asyncio.run(engine.do("generate", told))
        assert "".join(told) == "one two three"
        assert len(told) == (3 if flush_s == 0 else 1)
        assert result["finish_reason"] == "stop"
        assert result["usage"]["completion_tokens"] == 3


def test_cancel_ends_an_answer() -> None:
    engine, told = Engine(), list[str]()
    engine.endless = True

    async def run() -> None:
        answer = asyncio.create_task(engine.do("generate", told))
        while not engine.verbs._answers:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert await engine.do("cancel", [], id="name") == {}
        with pytest.raises(CommandError, match="cancelled"):
            await answer
        with pytest.raises(CommandError, match="no answer with this id"):
            await engine.do("cancel", [], id="name")

    asyncio.run(run())
    assert engine.closed == 1
    assert "".join(told).startswith("one two again")


def test_refusals_have_their_reasons() -> None:
    engine = Engine()
    engine.refuses = True
    for verb, arguments, reason in (
        ("generate", {}, "messages must not be empty"),
        ("generate", {"tools": [{}]}, "tools"),
        ("bench", {}, "the model is not available"),
        ("bench", {"whole": "yes"}, "whole must be true or false"),
        ("log_level", {"level": "loud"}, "level must be one of: debug, info"),
        ("reload", {}, "queue_limit: not a number"),
        ("update", {"reference": REFERENCE}, "only the service of an installed release"),
        ("update", {"reference": "oci://127.0.0.1:5000/a/b:1"}, "must end with a digest"),
        ("update", {}, "reference is not valid"),
        ("rollback", {}, "only the service of an installed release"),
    ):
        with pytest.raises(CommandError, match=reason):
            asyncio.run(engine.do(verb, [], **arguments))


def test_bench_gives_the_speed() -> None:
    for arguments, contexts in (({}, [0]), ({"whole": True}, [0, 512])):
        result = asyncio.run(Engine().do("bench", [], **arguments))
        assert (result["tokens_per_s"], result["first_token_s"]) == (100.0, 0.25)
        assert [case["context"] for case in result["decode"]] == contexts


def test_restart_waits_until_the_model_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()

    async def run() -> dict[str, Any]:
        restart = asyncio.create_task(engine.do("restart", []))
        await asyncio.sleep(0.3)
        assert not restart.done()
        engine.status = status(worker_ends=1)
        return await restart

    assert asyncio.run(run())["seconds"] >= 0.3
    assert engine.restarts == 1
    monkeypatch.setattr(module, "RESTART_S", 0.1)
    engine.status = status()
    with pytest.raises(CommandError, match="not ready after"):
        asyncio.run(engine.do("restart", []))


def test_reload_ends_in_the_next_run_of_the_service() -> None:
    engine = Engine()

    async def run() -> None:
        reload = asyncio.create_task(engine.do("reload", []))
        await asyncio.sleep(0.05)
        assert (engine.reloads, reload.done()) == (1, False)
        reload.cancel()
        engine.status = status(health=Health.STARTING)
        reload = asyncio.create_task(engine.do("reload", [], resumed=True))
        await asyncio.sleep(0.3)
        assert not reload.done()
        engine.status = status()
        await reload

    asyncio.run(run())
    assert engine.reloads == 1


def test_verify_tells_the_damage() -> None:
    engine = Engine()
    assert asyncio.run(engine.do("verify", [])) == {}
    engine.damage = "model/weights.data has changed"
    with pytest.raises(CommandError, match="has changed"):
        asyncio.run(engine.do("verify", []))


def test_diagnostics_have_status_and_checks() -> None:
    result = asyncio.run(Engine().do("diagnostics", []))
    assert result["status"]["health"] == "ready"
    assert result["checks"]["model"] == {"status": "ok", "detail": ""}
    assert result["doctor"] == [{"name": "disk", "status": "ok", "found": "room", "advice": ""}]
