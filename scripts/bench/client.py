"""A light HTTP client: what comes is kept with its time, and read only after the last byte.

Client and server share two cores: parsing each event as it comes would slow the server down.
"""

import json
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

PATIENCE_S = 300
AGAIN_S = 0.005


class Answer(NamedTuple):
    """A streamed answer.

    Attributes:
        text: its text.
        prompt_tokens: length of the prompt, as the server counts it; 0 if it does not.
        tokens: number of tokens, as the server counts them.
        started: time at which the request was sent, of the monotonic clock.
        first: time at which the first text came.
        last: time at which the last text came.
    """

    text: str
    prompt_tokens: int
    tokens: int
    started: float
    first: float
    last: float

    @property
    def first_s(self) -> float:
        """Time to the first token, seconds."""
        return self.first - self.started

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first a second, from the first text to the last."""
        return (self.tokens - 1) / (self.last - self.first)


class RefusedError(Exception):
    """The server answered with an error; `status` has its number."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text[:300]}")
        self.status = status


def chat(port: int, body: dict[str, Any]) -> Answer:
    """Stream one answer of `/v1/chat/completions`.

    Raises:
        RefusedError: the server answers with an error.
        OSError: there is no server, or it closed the connection.
    """
    (answer,) = chats(port, [body])
    return answer


def chats(port: int, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Stream several answers at once; see `chat`."""
    waiting = selectors.DefaultSelector()
    data: list[list[tuple[float, bytes]]] = [[] for _ in bodies]
    started = []
    for number, body in enumerate(bodies):
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        started.append(time.monotonic())
        connection.sendall(_request(port, body))
        waiting.register(connection, selectors.EVENT_READ, number)
    while waiting.get_map():
        ready = waiting.select(PATIENCE_S)
        if not ready:
            raise TimeoutError("the server does not answer")
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            received = key.fileobj.recv(1 << 16)
            if received:
                data[key.data].append((time.monotonic(), received))
            else:
                waiting.unregister(key.fileobj)
                key.fileobj.close()
    return [read(parts, begun) for parts, begun in zip(data, started, strict=True)]


def first_answer(port: int, body: dict[str, Any]) -> Answer:
    """Stream an answer of a server that is starting, asking until it takes the request."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return chat(port, body)
        except RefusedError as error:
            if error.status != 503 or time.monotonic() > deadline:
                raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(AGAIN_S)


def read(parts: Sequence[tuple[float, bytes]], started: float) -> Answer:
    """Read an answer from the bytes of a connection, with the times at which they came.

    Raises:
        RefusedError: it is an error.
        OSError: it is not whole.
    """
    whole = b"".join(data for _, data in parts)
    head, _, _ = whole.partition(b"\r\n\r\n")
    if b" " not in head:
        raise ConnectionError("the server closed the connection")
    status = int(head.split(b" ", 2)[1])
    if status != 200:
        raise RefusedError(status, whole[len(head) :].decode(errors="replace").strip())
    text, usage = "", {"prompt_tokens": 0, "completion_tokens": 0}
    times = []
    for end, event in _events(whole):
        for choice in event.get("choices", []):
            content = choice.get("delta", {}).get("content")
            if content:
                text += content
                times.append(_when(parts, end))
        usage = event.get("usage") or usage
    if not times:
        raise ConnectionError("the answer is empty")
    # A server that does not count sends an event for each token.
    tokens = usage["completion_tokens"] or len(times)
    return Answer(text, usage["prompt_tokens"], tokens, started, times[0], times[-1])


def _events(whole: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the events of a stream, each with the place where its line ends."""
    head, _, body = whole.partition(b"\r\n\r\n")
    pieces = [(len(head) + 4, body)]
    if b"transfer-encoding: chunked" in head.lower():
        pieces = list(_chunks(whole, len(head) + 4))
    line, place = b"", 0
    for start, piece in pieces:
        place = start
        for part in piece.splitlines(keepends=True):
            line, place = line + part, place + len(part)
            if line.endswith(b"\n"):
                _, marker, data = line.partition(b"data: ")
                if marker and not data.startswith(b"[DONE]"):
                    yield place, json.loads(data)
                line = b""


def _chunks(whole: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks of a chunked transfer (RFC 9112, 7.1), each with its place."""
    while True:
        size, newline, _ = whole[place : place + 20].partition(b"\r\n")
        if not newline or not int(size, 16):
            return
        place += len(size) + 2
        yield place, whole[place : place + int(size, 16)]
        place += int(size, 16) + 2


def _when(parts: Sequence[tuple[float, bytes]], place: int) -> float:
    """Return the time at which a place of the stream had come."""
    for when, data in parts:
        place -= len(data)
        if place <= 0:
            return when
    return parts[-1][0]


def _request(port: int, body: dict[str, Any]) -> bytes:
    options = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    data = json.dumps({**options, **body}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + data
