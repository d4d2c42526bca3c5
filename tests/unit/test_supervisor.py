"""One inference process, kept running: with a fake engine in a real process."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from device_runtime import supervisor
from device_runtime.engine import PromptTooLongError
from device_runtime.errors import EngineError, ServiceError
from device_runtime.status import Health
from device_runtime.supervisor import BusyError, DeadlineError, QueueFullError, Supervisor
from tests import fakes
from tests.serving import is_gone


@asynccontextmanager
async def running(
    mode: str = "",
    *,
    parallel: int = 1,
    queue_limit: int = 8,
    timeout_s: float = 60,
    system_prompt: str = "",
    program: str = sys.executable,
) -> AsyncIterator[Supervisor]:
    found = Supervisor(
        [program, *fakes.worker_command(mode)[1:]],
        parallel=parallel,
        queue_limit=queue_limit,
        timeout_s=timeout_s,
        system_prompt=system_prompt,
    )
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


async def answer(one: Supervisor, prompt: str) -> str:
    async with aclosing(one.generate(fakes.request(prompt))) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.01)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_answers_one_after_the_other() -> None:
    async def test() -> None:
        async with running() as one:
            assert one.health is Health.READY
            both = await asyncio.gather(answer(one, "a b"), answer(one, "c"))
            assert list(both) == ["a b ", "c "]
            pid = one.pid
        assert pid is not None
        assert is_gone(pid)

    run(test)


def test_what_native_code_prints_does_not_disturb_the_messages() -> None:
    async def test() -> None:
        async with running() as one:
            assert await answer(one, "noise") == "noise "

    run(test)


def test_errors_of_requests_leave_the_process_alone() -> None:
    async def test() -> None:
        async with running() as one:
            with pytest.raises(PromptTooLongError, match="too long") as caught:
                await answer(one, "refuse")
            assert caught.value.hint == "Shorten it."
            with pytest.raises(EngineError, match="failed"):
                await answer(one, "fault")
            assert await answer(one, "a") == "a "
            assert one.restarts == 0

    run(test)


def test_crash_fails_the_running_request_and_no_other() -> None:
    async def test() -> None:
        async with running() as one:
            results = await asyncio.gather(
                answer(one, "crash"), answer(one, "a"), return_exceptions=True
            )
            assert isinstance(results[0], EngineError)
            assert "SIGKILL" in str(results[0])
            assert results[1] == "a "
            assert one.restarts == 1
            assert one.health is Health.READY

    run(test)


def test_each_process_prepares_the_system_prompt() -> None:
    async def test() -> None:
        async with running(system_prompt="Be — brief.") as one:
            assert await answer(one, "warmed") == "Be — brief. "
            with pytest.raises(EngineError):
                await answer(one, "crash")
            assert await answer(one, "warmed") == "Be — brief. "

    run(test)


def test_health_tells_of_a_crash() -> None:
    async def test() -> None:
        async with running() as one:
            with pytest.raises(EngineError):
                await answer(one, "crash")
            assert one.health is Health.DEGRADED
            assert "SIGKILL" in one.last_error
            await until(lambda: one.health is Health.READY)

    run(test)


def test_closed_answers_are_cancelled_in_the_process() -> None:
    async def test() -> None:
        async with running() as one:
            async with aclosing(one.generate(fakes.request("long"))) as chunks:
                async for chunk in chunks:
                    if chunk.tokens > 3:
                        break
            assert await answer(one, "a") == "a "

    run(test)


def test_waiting_requests_can_be_given_up() -> None:
    async def test() -> None:
        async with running() as one:
            long = asyncio.create_task(answer(one, "long"))
            waiting = asyncio.create_task(answer(one, "a"))
            await until(lambda: one.queue_length == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert one.queue_length == 0
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)
            assert await answer(one, "b") == "b "

    run(test)


def test_queue_is_bounded() -> None:
    async def test() -> None:
        async with running(queue_limit=3) as one:
            tasks = [asyncio.create_task(answer(one, "long")) for _ in range(4)]
            await until(lambda: one.queue_length == 3)
            with pytest.raises(QueueFullError) as caught:
                await answer(one, "a")
            assert caught.value.retry_after_s > 0
            one.refuse()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {ServiceError}

    run(test)


def test_no_queue_still_lets_a_request_in_that_can_start() -> None:
    async def test() -> None:
        async with running(queue_limit=0) as one:
            assert await answer(one, "a") == "a "
            long = asyncio.create_task(answer(one, "long"))
            await until(lambda: one.running == 1)
            with pytest.raises(QueueFullError):
                await answer(one, "a")
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)

    run(test)


def test_short_request_is_answered_beside_a_long_one() -> None:
    async def test() -> None:
        async with running(parallel=2) as one:
            long = asyncio.create_task(answer(one, "long"))
            await until(lambda: one.running == 1)
            assert await answer(one, "a b c") == "a b c "
            assert not long.done()
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)

    run(test)


def test_crash_fails_all_that_run_and_none_that_wait() -> None:
    async def test() -> None:
        async with running(parallel=2) as one:
            long = asyncio.create_task(answer(one, "long"))
            await until(lambda: one.running == 1)
            results = await asyncio.gather(
                long, answer(one, "crash"), answer(one, "a"), return_exceptions=True
            )
            assert [type(result) for result in results[:2]] == [EngineError, EngineError]
            assert results[2] == "a "

    run(test)


def test_request_that_takes_too_long_is_ended_and_cancelled() -> None:
    async def test() -> None:
        async with running(timeout_s=0.3) as one:
            tasks = [asyncio.create_task(answer(one, "long")) for _ in range(2)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {DeadlineError}
            await until(lambda: one.running == 0)
            assert await answer(one, "a") == "a "

    run(test)


def test_first_load_that_fails_is_an_error() -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="no model here") as caught:
            async with running("broken"):
                pass
        assert caught.value.hint == "Bring one."

    run(test)


def test_model_that_stops_loading_backs_off_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.01)
    obstacle = tmp_path / "obstacle"

    async def test() -> None:
        async with running(str(obstacle)) as one:
            obstacle.touch()
            results = await asyncio.gather(
                answer(one, "crash"), answer(one, "a"), return_exceptions=True
            )
            assert [type(result) for result in results] == [EngineError, EngineError]
            assert one.health is Health.FAILING
            with pytest.raises(BusyError):
                await answer(one, "a")
            obstacle.unlink()
            await until(lambda: one.health is Health.READY)
            assert await answer(one, "a") == "a "

    run(test)


def test_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_S", 0.01)
    program, moved = tmp_path / "program", tmp_path / "moved"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)

    async def test() -> None:
        async with running(program=str(program)) as one:
            program.rename(moved)
            async with asyncio.timeout(20):
                results = await asyncio.gather(
                    answer(one, "crash"), answer(one, "a"), return_exceptions=True
                )
            assert [type(result) for result in results] == [EngineError, EngineError]
            assert one.health is Health.FAILING
            assert "cannot be started" in one.last_error
            moved.rename(program)
            await until(lambda: one.health is Health.READY)
            assert await answer(one, "a") == "a "
            assert one.restarts == 1

    run(test)


def test_first_process_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(EngineError, match="cannot be started") as caught:
            async with asyncio.timeout(5), running(program=str(tmp_path / "missing")):
                pass
        assert caught.value.hint

    run(test)


def test_restarts_back_off_for_as_long_as_it_takes() -> None:
    delays = [supervisor.restart_delay_s(failures) for failures in (1, 2, 3, 10_000)]
    assert delays == [0.2, 0.4, 0.8, 30.0]


def test_health_tells_of_a_process_that_is_stopped() -> None:
    async def test() -> None:
        async with running() as one:
            assert one.pid is not None
            os.kill(one.pid, signal.SIGSTOP)
            await until(lambda: one.health is Health.DEGRADED)
            os.kill(one.pid, signal.SIGCONT)
            await until(lambda: one.health is Health.READY)
            assert await answer(one, "a") == "a "
            assert one.restarts == 0

    run(test)


def test_process_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENT_S", 0.5)

    async def test() -> None:
        async with running(timeout_s=0.2) as one:
            stopped = one.pid
            assert stopped is not None
            os.kill(stopped, signal.SIGSTOP)
            with pytest.raises(DeadlineError):
                await answer(one, "a")
            await until(lambda: one.restarts == 1 and one.health is Health.READY)
            assert "did not answer" in one.last_error
            assert is_gone(stopped)
            assert await answer(one, "a") == "a "

    run(test)


def test_silence_without_a_request_is_none_of_a_process_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "SILENT_S", 0.1)

    async def test() -> None:
        async with running(timeout_s=0.1) as one:
            await asyncio.sleep(0.3)
            assert await answer(one, "a") == "a "
            await asyncio.sleep(0.3)
            assert (one.restarts, one.health) == (0, Health.READY)

    run(test)


def test_process_that_closes_its_pipe_is_not_ready_and_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "LAST_WORDS_S", 0.5)

    async def test() -> None:
        async with running() as one:
            with pytest.raises(EngineError, match="SIGKILL"):
                async with asyncio.timeout(10):
                    closing = asyncio.create_task(answer(one, "close"))
                    await until(lambda: one.health is Health.DEGRADED)
                    await closing
            await until(lambda: one.health is Health.READY)

    run(test)


def test_process_whose_messages_cannot_be_read_is_replaced() -> None:
    async def test() -> None:
        async with running() as one:
            with pytest.raises(EngineError, match="not a message"):
                async with asyncio.timeout(10):
                    await answer(one, "garble")
            await until(lambda: one.health is Health.READY)

    run(test)


def test_process_that_cannot_read_its_requests_ends() -> None:
    done = subprocess.run(
        fakes.worker_command(), input=b"\x00\x00\x00\x01?", capture_output=True, timeout=20
    )
    assert done.returncode == 1
    assert b"cannot receive requests" in done.stderr
