"""Servers as contestants of the bench: a real process that is not ready at once."""

import sys
import time
from collections.abc import Iterator

import pytest

from scripts.bench import client
from scripts.bench.protocol import ROOT
from scripts.bench.servers import Server

COMMAND = [sys.executable, "-m", "tests.support.bench_server", "{port}"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(COMMAND, {"PYTHONPATH": str(ROOT)}) as server:
        server.ready()
        yield server


def body(tokens: int) -> dict[str, object]:
    return {"messages": [], "max_tokens": tokens}


def test_first_answer_waits_until_the_server_takes_requests() -> None:
    with Server(COMMAND, {"PYTHONPATH": str(ROOT)}) as server:
        answer = server.first_answer(body(2))
        assert answer.text == "0 1 "
        assert server.started < answer.started < answer.first < answer.last
    with pytest.raises(ConnectionRefusedError):
        client.chat(server.port, body(1))


def test_answers_come_at_once(server: Server) -> None:
    begin = time.monotonic()
    answers = client.chats(server.port, [body(10) for _ in range(8)])
    assert [answer.tokens for answer in answers] == [10] * 8
    assert time.monotonic() - begin < sum(answer.last - answer.started for answer in answers)


def test_refusal_does_not_count_as_starting(server: Server) -> None:
    with pytest.raises(client.RefusedError, match="status 400"):
        server.first_answer(body(101))


def test_memory_is_that_of_the_process(server: Server) -> None:
    memory = server.memory()
    assert 1_000_000 < memory.anonymous <= memory.resident < 1_000_000_000
