"""The light HTTP client: answers are read from the bytes that came, with their times."""

import json
from typing import Any

import pytest

from scripts.bench.client import RefusedError, read

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"delta": {"content": content}}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


USAGE = {"prompt_tokens": 7, "completion_tokens": 9}
END = chunk(event(usage=USAGE)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def test_times_are_those_at_which_the_text_came() -> None:
    parts = [
        (1.0, CHUNKED + chunk(event(""))),
        (2.0, chunk(event("Hello")) + chunk(event(", "))),
        (3.5, chunk(event("world"))),
        (4.0, END),
    ]
    answer = read(parts, 0.5)
    assert answer.text == "Hello, world"
    assert (answer.prompt_tokens, answer.tokens) == (7, 9)
    assert answer.first_s == 1.5
    assert answer.tokens_per_s == 8 / 1.5


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_bytes_may_come_cut_anywhere(size: int) -> None:
    cut = chunk(event("Hello")[:11]) + chunk(event("Hello")[11:])
    whole = CHUNKED + cut + chunk(event("!")) + END
    parts = [(at / 10, whole[at : at + size]) for at in range(0, len(whole), size)]
    answer = read(parts, 0.0)
    assert answer.text == "Hello!"
    end = whole.index(b"data: ", whole.index(b"!") - 50)
    assert answer.first <= end / 10 < answer.last


def test_answer_need_not_be_chunked_and_tokens_need_not_be_counted() -> None:
    parts = [(1.0, HEAD + b"\r\n" + event("a")), (2.0, event("b") + event("c"))]
    answer = read(parts, 0.0)
    assert (answer.text, answer.tokens, answer.first, answer.last) == ("abc", 3, 1.0, 2.0)


def test_error_is_told() -> None:
    with pytest.raises(RefusedError, match="status 503: loading") as refusal:
        read([(1.0, b"HTTP/1.1 503 Busy\r\n\r\nloading")], 0.0)
    assert refusal.value.status == 503


@pytest.mark.parametrize("data", [b"", CHUNKED, CHUNKED + END])
def test_answer_without_text_is_an_error(data: bytes) -> None:
    with pytest.raises(ConnectionError):
        read([(1.0, data)], 0.0)
