"""Delivery of answers: as server-sent events or whole, until the client disconnects."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from device_runtime.api.errors import ApiError
from device_runtime.api.responses import Answer
from device_runtime.inference.engine import GenerationChunk

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events of one answer; the generation ends however the response ends."""

    def __init__(self, chunks: AsyncGenerator[GenerationChunk], answer: Answer) -> None:
        super().__init__(
            _events(chunks, answer),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


async def _events(chunks: AsyncIterator[GenerationChunk], answer: Answer) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            if pieces := answer.push(chunk):
                yield b"".join(map(_event, pieces))
    except ApiError as error:
        yield _event(error.body)
    else:
        yield b"data: [DONE]\n\n"


def _event(data: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def collect(chunks: AsyncIterator[GenerationChunk], answer: Answer) -> msgspec.Struct:
    """Consume all chunks, and return the whole answer."""
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
