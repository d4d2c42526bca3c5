"""Delivery of answers: streamed or whole, until the client disconnects."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from device_runtime.api.errors import ApiError

T = TypeVar("T")
K = TypeVar("K")
Pushed = TypeVar("Pushed", contravariant=True)

SILENCE_S = 5.0
"""Time without a piece after which a stream shows that it goes on, seconds.

It may wait in the queue, or for a long prompt; clients and proxies give up silent connections."""


@dataclass(frozen=True)
class Frames:
    """The form of a streamed answer.

    Attributes:
        media_type: its content type.
        data: writes one object of the answer.
        error: writes the error that ends an answer.
        end: written after a whole answer.
        waiting: written in a long silence; empty where the form has nothing without a meaning.
    """

    media_type: str
    data: Callable[[msgspec.Struct], bytes]
    error: Callable[[ApiError], bytes]
    end: bytes = b""
    waiting: bytes = b""


def _event(data: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: msgspec.Struct) -> bytes:
    """Write a server-sent event with a name: the tag of its struct, as in the field `type`."""
    return b"event: " + str(data.__struct_config__.tag).encode() + b"\n" + _event(data)


COMMENT = b": waiting\n\n"
"""A comment among server-sent events, which clients skip."""

EVENTS = Frames(
    "text/event-stream",
    _event,
    lambda error: _event(error.body),
    end=b"data: [DONE]\n\n",
    waiting=COMMENT,
)
"""Server-sent events without names, as of OpenAI's chat completions."""


def json_line(data: msgspec.Struct) -> bytes:
    """Write a line of JSON."""
    return msgspec.json.encode(data) + b"\n"


class Pushes(Protocol[Pushed]):
    """An answer that grows by chunks of some kind."""

    def push(self, chunk: Pushed) -> Sequence[msgspec.Struct]:
        """Add the next chunk, and return the objects that can be sent now."""
        ...


class Chunks(Generic[K]):
    """The chunks of an answer, for which one can wait a limited time.

    Args:
        generated: the chunks; they end with `aclose`.
    """

    def __init__(self, generated: AsyncGenerator[K]) -> None:
        self._generated = generated
        self._next: asyncio.Future[K | None] | None = None
        self.over = False

    async def next(self, seconds: float | None = None) -> K | None:
        """Return the next chunk; None if there is none in this time, or `over`.

        Raises:
            ApiError: the request cannot be answered.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._generated, None))
        done, _ = await asyncio.wait({self._next}, timeout=seconds)
        if not done:
            return None
        taken, self._next = self._next, None
        chunk = taken.result()
        self.over = chunk is None
        return chunk

    async def aclose(self) -> None:
        """End the generation."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._generated.aclose()


class AnswerStream(StreamingResponse):
    """One answer in pieces; the generation ends however the response ends.

    Args:
        chunks: its chunks.
        first: the first of them if it is taken already.
        answer: the answer, without any chunk yet.
        frames: form of the pieces.
        headers: further headers of the response.
    """

    def __init__(
        self,
        chunks: Chunks[K],
        first: K | None,
        answer: Pushes[K],
        frames: Frames,
        headers: Mapping[str, str],
    ) -> None:
        self._pieces = _pieces(chunks, first, answer, frames)
        super().__init__(
            self._pieces,
            media_type=frames.media_type,
            headers={"Cache-Control": "no-cache", **headers},
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()
            await self._chunks.aclose()


async def _pieces(
    chunks: Chunks[K], first: K | None, answer: Pushes[K], frames: Frames
) -> AsyncGenerator[bytes]:
    """Yield what is sent: the answer's pieces, and something in each long silence."""
    sent = time.monotonic()
    chunk = first
    try:
        while not chunks.over:
            piece = b"".join(map(frames.data, answer.push(chunk))) if chunk is not None else b""
            silent_s = time.monotonic() - sent
            if not piece and silent_s >= SILENCE_S:
                piece = frames.waiting
            if piece:
                yield piece
                sent, silent_s = time.monotonic(), 0
            chunk = await chunks.next(SILENCE_S - silent_s if frames.waiting else None)
    except ApiError as error:
        yield frames.error(error)
    else:
        yield frames.end


async def deliver(
    request: Request,
    chunks: Chunks[K],
    answer: Pushes[K],
    frames: Frames | None,
    headers: Mapping[str, str] | None = None,
) -> AnswerStream | None:
    """Begin to stream an answer, or push all of it.

    Args:
        request: the request; if its client disconnects, the work ends.
        chunks: the answer's chunks.
        answer: the answer, without any chunk yet.
        frames: form of the pieces; None for an answer as a whole.
        headers: further headers of a stream.

    Returns:
        The stream; None once a whole answer has all its chunks.

    Raises:
        ApiError: the request cannot be answered.
        ClientDisconnect: the client disconnected first.
    """
    try:
        # The first chunk only means that the request is accepted: until it arrives, an error can
        # still be sent as an HTTP status.
        patience = SILENCE_S if frames and frames.waiting else None
        first = await while_connected(request, chunks.next(patience))
        if frames is not None:
            return AnswerStream(chunks, first, answer, frames, headers or {})
        assert first is not None
        answer.push(first)
        await while_connected(request, _push_all(chunks, answer))
    except BaseException:
        await chunks.aclose()
        raise
    return None


async def _push_all(chunks: Chunks[K], answer: Pushes[K]) -> None:
    while (chunk := await chunks.next()) is not None:
        answer.push(chunk)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await some work, or cancel it when the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected first.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
