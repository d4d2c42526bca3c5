"""Delivery of answers: streamed or whole, until the client disconnects."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from device_runtime.api.errors import ApiError
from device_runtime.api.responses import Answer
from device_runtime.inference.engine import GenerationChunk

T = TypeVar("T")


@dataclass(frozen=True)
class Frames:
    """The form of a streamed answer.

    Attributes:
        media_type: its content type.
        data: writes one object of the answer.
        error: writes the error that ends an answer.
        end: written after a whole answer.
    """

    media_type: str
    data: Callable[[msgspec.Struct], bytes]
    error: Callable[[ApiError], bytes]
    end: bytes = b""


def _event(data: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: msgspec.Struct) -> bytes:
    """Write a server-sent event with a name: the tag of its struct, as in the field `type`."""
    return b"event: " + str(data.__struct_config__.tag).encode() + b"\n" + _event(data)


EVENTS = Frames(
    "text/event-stream", _event, lambda error: _event(error.body), end=b"data: [DONE]\n\n"
)
"""Server-sent events without names, as of OpenAI's chat completions."""


def json_line(data: msgspec.Struct) -> bytes:
    """Write a line of JSON."""
    return msgspec.json.encode(data) + b"\n"


class AnswerStream(StreamingResponse):
    """One answer in pieces; the generation ends however the response ends.

    Args:
        chunks: the engine's chunks, of which the first is taken already.
        first: that chunk.
        answer: the answer, without any chunk yet.
        frames: form of the pieces.
        headers: further headers of the response.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[GenerationChunk],
        first: GenerationChunk,
        answer: Answer,
        frames: Frames,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            _pieces(chunks, first, answer, frames),
            media_type=frames.media_type,
            headers={"Cache-Control": "no-cache", **headers},
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


async def _pieces(
    chunks: AsyncIterator[GenerationChunk], first: GenerationChunk, answer: Answer, frames: Frames
) -> AsyncIterator[bytes]:
    if pieces := answer.push(first):
        yield b"".join(map(frames.data, pieces))
    try:
        async for chunk in chunks:
            if pieces := answer.push(chunk):
                yield b"".join(map(frames.data, pieces))
    except ApiError as error:
        yield frames.error(error)
    else:
        yield frames.end


async def collect(
    chunks: AsyncIterator[GenerationChunk], first: GenerationChunk, answer: Answer
) -> msgspec.Struct:
    """Consume all chunks after the first one, and return the whole answer."""
    answer.push(first)
    async for chunk in chunks:
        answer.push(chunk)
    return answer.whole()


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
