"""One inference process, kept running: with a fake engine in a real process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import EngineError, ServiceError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.embedding import EmbeddingRequest
from device_runtime.inference.engine import PromptTooLongError
from device_runtime.speech.transcription import AudioError, TranscriptionRequest
from device_runtime.worker.errors import BusyError, DeadlineError, QueueFullError
from device_runtime.worker.health import Health
from device_runtime.worker.placement import Placement
from device_runtime.worker.restarts import restart_delay_s
from device_runtime.worker.supervisor import Supervisor
from tests.support import fakes
from tests.support.serving import is_gone

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(
    mode: str = "",
    *,
    parallel: int = 1,
    queue_limit: int = 8,
    timeout_s: float = 60,
    system_prompt: str = "",
    program: str = sys.executable,
    probe: Probe | None = None,
    unload_after_s: float = 0,
) -> AsyncIterator[Supervisor]:
    command = [program, *fakes.worker_command(mode)[1:]]
    supervisor = Supervisor(
        Placement(lambda _: command, release="0" * 64),
        parallel=parallel,
        queue_limit=queue_limit,
        timeout_s=timeout_s,
        system_prompt=system_prompt,
        probe=probe,
        unload_after_s=unload_after_s,
    )
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()


async def answer(supervisor: Supervisor, prompt: str) -> str:
    async with aclosing(supervisor.generate(fakes.request(prompt))) as chunks:
        return "".join([chunk.text async for chunk in chunks])


@asynccontextmanager
async def long_request(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[str]]:
    """A request that runs, and is given up at the end."""
    task = asyncio.create_task(answer(supervisor, "long"))
    await until(lambda: supervisor.running == 1)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.01)


async def test_answers_one_after_the_other() -> None:
    async with running() as supervisor:
        assert supervisor.health is Health.READY
        both = await asyncio.gather(answer(supervisor, "a b"), answer(supervisor, "c"))
        assert list(both) == ["a b ", "c "]
        pid = supervisor.pid
    assert pid is not None
    assert is_gone(pid)


async def test_what_native_code_prints_does_not_disturb_the_messages() -> None:
    async with running() as supervisor:
        assert await answer(supervisor, "noise") == "noise "


async def test_errors_of_requests_leave_the_process_alone() -> None:
    async with running() as supervisor:
        with pytest.raises(PromptTooLongError, match="too long") as caught:
            await answer(supervisor, "refuse")
        assert caught.value.hint == "Shorten it."
        with pytest.raises(EngineError, match="failed"):
            await answer(supervisor, "fault")
        assert await answer(supervisor, "a") == "a "
        assert supervisor.restarts == 0


async def test_crash_fails_the_running_request_and_no_other() -> None:
    async with running() as supervisor:
        results = await asyncio.gather(
            answer(supervisor, "crash"), answer(supervisor, "a"), return_exceptions=True
        )
        assert isinstance(results[0], EngineError)
        assert "SIGKILL" in str(results[0])
        assert results[1] == "a "
        assert supervisor.restarts == 1
        assert supervisor.health is Health.READY


async def test_health_tells_of_a_crash() -> None:
    async with running() as supervisor:
        with pytest.raises(EngineError):
            await answer(supervisor, "crash")
        assert supervisor.health is Health.DEGRADED
        assert "SIGKILL" in supervisor.last_error
        await until(lambda: supervisor.health is Health.READY)


async def test_each_process_prepares_the_system_prompt() -> None:
    async with running(system_prompt="Be — brief.") as supervisor:
        assert await answer(supervisor, "warmed") == "Be — brief. "
        with pytest.raises(EngineError):
            await answer(supervisor, "crash")
        assert await answer(supervisor, "warmed") == "Be — brief. "


async def test_closed_answers_are_cancelled_in_the_process() -> None:
    async with running() as supervisor:
        async with aclosing(supervisor.generate(fakes.request("long"))) as chunks:
            async for chunk in chunks:
                if chunk.tokens > 3:
                    break
        assert await answer(supervisor, "a") == "a "


async def embed(supervisor: Supervisor, *texts: str) -> list[bytes]:
    request = EmbeddingRequest(inputs=texts)
    async with aclosing(supervisor.embed(request)) as chunks:
        return [chunk.vector async for chunk in chunks if chunk.vector]


async def test_texts_are_embedded_beside_an_answer() -> None:
    async with running(parallel=2) as supervisor, long_request(supervisor):
        assert await embed(supervisor, "a", "bcd") == [fakes.vector("a"), fakes.vector("bcd")]


async def test_embedding_that_takes_too_long_is_ended() -> None:
    async with running(timeout_s=1) as supervisor:
        with pytest.raises(DeadlineError) as caught:
            await embed(supervisor, "long")
        assert caught.value.hint == "Send fewer or shorter texts, or raise request_timeout."


async def test_embedding_that_is_refused_or_crashes_fails_alone() -> None:
    async with running() as supervisor:
        with pytest.raises(PromptTooLongError):
            await embed(supervisor, "a", "refuse")
        with pytest.raises(EngineError, match="SIGKILL"):
            await embed(supervisor, "a", "crash")
        assert await embed(supervisor, "a") == [fakes.vector("a")]
        assert supervisor.restarts == 1


async def test_closed_embeddings_are_cancelled_in_the_process() -> None:
    async with running() as supervisor:
        request = EmbeddingRequest(inputs=("a", "long"))
        async with aclosing(supervisor.embed(request)) as chunks:
            async for chunk in chunks:
                if chunk.vector:
                    break
        assert await answer(supervisor, "a") == "a "


async def transcribe(supervisor: Supervisor, audio: bytes) -> str:
    request = TranscriptionRequest(audio=audio)
    async with aclosing(supervisor.transcribe(request)) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def test_recording_is_written_down_beside_an_answer() -> None:
    async with running(parallel=2) as supervisor, long_request(supervisor):
        assert await transcribe(supervisor, b"some words") == " some words"


async def test_large_recording_reaches_the_process() -> None:
    async with running() as supervisor:
        assert await transcribe(supervisor, b"a" * (25 << 20)) == " " + "a" * (25 << 20)


async def test_recording_that_takes_too_long_is_ended() -> None:
    async with running(timeout_s=1) as supervisor:
        with pytest.raises(DeadlineError) as caught:
            await transcribe(supervisor, b"long")
        assert caught.value.hint == "Send a shorter recording, or raise request_timeout."


async def test_recording_that_cannot_be_read_is_refused() -> None:
    async with running() as supervisor:
        with pytest.raises(AudioError, match="cannot be read"):
            await transcribe(supervisor, b"refuse")
        assert await transcribe(supervisor, b"a") == " a"


async def test_closed_transcript_is_cancelled_in_the_process() -> None:
    async with running() as supervisor:
        request = TranscriptionRequest(audio=b"long")
        async with aclosing(supervisor.transcribe(request)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    break
        assert await answer(supervisor, "a") == "a "


async def test_waiting_requests_can_be_given_up() -> None:
    async with running() as supervisor:
        async with long_request(supervisor):
            waiting = asyncio.create_task(answer(supervisor, "a"))
            await until(lambda: supervisor.queue_length == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert supervisor.queue_length == 0
        assert await answer(supervisor, "b") == "b "


async def test_queue_is_bounded() -> None:
    async with running(queue_limit=3) as supervisor:
        tasks = [asyncio.create_task(answer(supervisor, "long")) for _ in range(4)]
        await until(lambda: supervisor.queue_length == 3)
        with pytest.raises(QueueFullError) as caught:
            await answer(supervisor, "a")
        assert caught.value.retry_after_s > 0
        supervisor.refuse()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {ServiceError}


async def test_no_queue_still_lets_a_request_in_that_can_start() -> None:
    async with running(queue_limit=0) as supervisor:
        assert await answer(supervisor, "a") == "a "
        async with long_request(supervisor):
            with pytest.raises(QueueFullError):
                await answer(supervisor, "a")


async def test_short_request_is_answered_beside_a_long_one() -> None:
    async with running(parallel=2) as supervisor, long_request(supervisor) as long:
        assert await answer(supervisor, "a b c") == "a b c "
        assert not long.done()


async def test_crash_fails_all_that_run_and_none_that_wait() -> None:
    async with running(parallel=2) as supervisor:
        long = asyncio.create_task(answer(supervisor, "long"))
        await until(lambda: supervisor.running == 1)
        results = await asyncio.gather(
            long, answer(supervisor, "crash"), answer(supervisor, "a"), return_exceptions=True
        )
        assert [type(result) for result in results[:2]] == [EngineError, EngineError]
        assert results[2] == "a "


async def test_request_that_takes_too_long_is_ended_and_cancelled() -> None:
    async with running(timeout_s=1) as supervisor:
        tasks = [asyncio.create_task(answer(supervisor, "long")) for _ in range(2)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {DeadlineError}
        assert {getattr(result, "hint", "") for result in results} == {
            "Lower max_tokens, or raise request_timeout."
        }
        await until(lambda: supervisor.running == 0)
        assert await answer(supervisor, "a") == "a "


async def test_first_load_that_fails_is_an_error() -> None:
    with pytest.raises(EngineError, match="no model here") as caught:
        async with running("broken"):
            pass
    assert caught.value.hint == "Bring one."


async def test_model_that_stops_loading_backs_off_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_runtime.worker.restarts.FIRST_DELAY_S", 0.01)
    obstacle = tmp_path / "obstacle"
    async with running(str(obstacle)) as supervisor:
        obstacle.touch()
        results = await asyncio.gather(
            answer(supervisor, "crash"), answer(supervisor, "a"), return_exceptions=True
        )
        assert [type(result) for result in results] == [EngineError, EngineError]
        assert supervisor.health is Health.FAILING
        with pytest.raises(BusyError):
            await answer(supervisor, "a")
        obstacle.unlink()
        await until(lambda: supervisor.health is Health.READY)
        assert await answer(supervisor, "a") == "a "


async def test_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_runtime.worker.restarts.FIRST_DELAY_S", 0.01)
    program, moved = tmp_path / "program", tmp_path / "moved"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)
    async with running(program=str(program)) as supervisor:
        program.rename(moved)
        async with asyncio.timeout(60):
            results = await asyncio.gather(
                answer(supervisor, "crash"), answer(supervisor, "a"), return_exceptions=True
            )
        assert [type(result) for result in results] == [EngineError, EngineError]
        assert supervisor.health is Health.FAILING
        assert "cannot be started" in supervisor.last_error
        moved.rename(program)
        await until(lambda: supervisor.health is Health.READY)
        assert await answer(supervisor, "a") == "a "
        assert supervisor.restarts == 1


async def test_first_process_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be started") as caught:
        async with asyncio.timeout(5), running(program=str(tmp_path / "missing")):
            pass
    assert caught.value.hint


def test_restarts_back_off_for_as_long_as_it_takes() -> None:
    delays = [restart_delay_s(failures) for failures in (1, 2, 3, 10_000)]
    assert delays == [0.2, 0.4, 0.8, 30.0]


async def test_health_reports_a_process_that_is_stopped() -> None:
    async with running() as supervisor:
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        await until(lambda: supervisor.health is Health.DEGRADED)
        os.kill(supervisor.pid, signal.SIGCONT)
        await until(lambda: supervisor.health is Health.READY)
        assert await answer(supervisor, "a") == "a "
        assert supervisor.restarts == 0


async def test_process_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runtime.worker.supervisor.SILENT_S", 1.0)
    async with running(timeout_s=1) as supervisor:
        stopped = supervisor.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(DeadlineError):
            await answer(supervisor, "a")
        await until(lambda: supervisor.restarts == 1 and supervisor.health is Health.READY)
        assert "did not respond" in supervisor.last_error
        assert is_gone(stopped)
        assert await answer(supervisor, "a") == "a "


async def test_process_that_stays_stopped_is_replaced_even_without_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device_runtime.worker.supervisor.STOPPED_S", 2.0)
    async with running() as supervisor:
        stopped = supervisor.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: supervisor.restarts == 1 and supervisor.health is Health.READY)
        assert supervisor.last_error == "the inference process was stopped for 2 s"
        assert is_gone(stopped)
        assert not supervisor.stuck
        assert await answer(supervisor, "a") == "a "


async def test_restart_replaces_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as supervisor:
        supervisor.restart()
        await until(lambda: supervisor.restarts == 1 and supervisor.health is Health.READY)
        assert "restarted by a command" in supervisor.last_error
        assert await answer(supervisor, "a") == "a "
        # A process that was killed and is still there, as one that waits for a disk.
        monkeypatch.setattr("device_runtime.worker.child.ENDING_S", -1.0)
        supervisor.restart()
        assert supervisor.stuck


async def test_an_idle_model_is_unloaded_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runtime.worker.supervisor.WATCH_S", 0.1)
    async with running(unload_after_s=0.3) as supervisor:
        async with long_request(supervisor):
            await asyncio.sleep(1)
            assert supervisor.health is Health.READY
        await until(lambda: supervisor.health is Health.UNLOADED and supervisor.pid is None)
        await asyncio.sleep(0.5)
        assert supervisor.pid is None
        both = await asyncio.gather(answer(supervisor, "a"), answer(supervisor, "b"))
        assert list(both) == ["a ", "b "]
        assert supervisor.health is Health.READY
        await until(lambda: supervisor.health is Health.UNLOADED and supervisor.pid is None)
        assert (supervisor.ends, supervisor.restarts, supervisor.last_error) == (0, 0, "")


async def test_unloading_for_memory() -> None:
    async with running() as supervisor:
        pid = supervisor.pid
        assert pid is not None
        supervisor.unload("little memory")
        # Asked at once, while the process is still ending.
        assert await answer(supervisor, "a") == "a "
        assert is_gone(pid)
        assert supervisor.ends == 0
        async with long_request(supervisor) as request:
            supervisor.unload("little memory")
            with pytest.raises(EngineError, match="little memory"):
                await request
        assert await answer(supervisor, "a") == "a "


async def test_an_unloaded_model_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runtime.worker.child.EXIT_S", 0.2)
    async with running() as supervisor:
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        supervisor.unload("little memory")
        await until(lambda: supervisor.ends == 1)
        assert "did not end by itself" in supervisor.last_error
        assert await answer(supervisor, "a") == "a "


async def test_pace_slows_answers_down() -> None:
    async with running() as supervisor:
        supervisor.pace(0.25)
        started = time.monotonic()
        await answer(supervisor, "a " * 200)
        # Each of 200 steps counts as a millisecond at least, and is followed by three of rest.
        assert time.monotonic() - started > 200 * 0.003
        assert supervisor.share == 0.25


async def test_process_without_requests_may_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device_runtime.worker.supervisor.SILENT_S", 0.5)
    async with running(timeout_s=0.5) as supervisor:
        await asyncio.sleep(0.7)
        assert await answer(supervisor, "a") == "a "
        await asyncio.sleep(0.7)
        assert (supervisor.restarts, supervisor.health) == (0, Health.READY)


async def test_process_that_closes_its_pipe_is_not_ready_and_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device_runtime.worker.child.EXIT_S", 0.5)
    async with running() as supervisor:
        with pytest.raises(EngineError, match="SIGKILL"):
            async with asyncio.timeout(60):
                closing = asyncio.create_task(answer(supervisor, "close"))
                await until(lambda: supervisor.health is Health.DEGRADED)
                await closing
        await until(lambda: supervisor.health is Health.READY)


async def test_process_whose_messages_cannot_be_read_is_replaced() -> None:
    async with running() as supervisor:
        with pytest.raises(EngineError, match="not a message"):
            async with asyncio.timeout(60):
                await answer(supervisor, "garble")
        await until(lambda: supervisor.health is Health.READY)


def test_process_that_cannot_read_its_requests_ends() -> None:
    done = subprocess.run(
        fakes.worker_command(), input=b"\x00\x00\x00\x01?", capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert b"cannot receive requests" in done.stderr


async def test_model_is_checked_before_it_is_ready_and_requests_wait_for_it() -> None:
    probe = Probe(prompt="a bb ccc", tokens=(1, 2, 3))
    async with running(probe=probe) as supervisor:
        assert supervisor.health is Health.READY
        assert supervisor.self_check is not None
        assert supervisor.self_check.passed
    placement = Placement(lambda _: fakes.worker_command(), release="0" * 64)
    stopped = Supervisor(placement, probe=Probe(prompt="long", tokens=(1,)))
    starting = asyncio.create_task(stopped.start())
    await until(lambda: stopped.running == 1)
    asked = asyncio.create_task(answer(stopped, "a"))
    await asyncio.sleep(0.2)
    assert (stopped.health, stopped.running) == (Health.STARTING, 1)
    assert stopped.queue_length == 1
    await stopped.stop()
    with pytest.raises(ServiceError, match="stopping"):
        await asked
    await starting
    assert stopped.self_check is not None
    assert not stopped.self_check.passed


async def test_model_with_other_tokens_serves_and_reports_it() -> None:
    async with running(probe=Probe(prompt="a bb ccc", tokens=(1, 9, 3))) as supervisor:
        detail = "token 2 of 3 is not the one that the build recorded"
        expected = SelfCheck(passed=False, tokens_per_s=None, detail=detail)
        assert supervisor.self_check == expected
        assert supervisor.health is Health.READY
        assert await answer(supervisor, "a") == "a "


async def test_model_that_crashes_in_its_check_is_reported_and_replaced() -> None:
    async with running(probe=Probe(prompt="crash", tokens=(1,))) as supervisor:
        assert supervisor.self_check is not None
        assert "SIGKILL" in supervisor.self_check.detail
        assert await answer(supervisor, "a") == "a "
        assert supervisor.restarts == 1
