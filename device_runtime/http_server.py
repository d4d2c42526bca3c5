"""The HTTP side: an OpenAI-compatible API, health and status."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from device_runtime.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptTooLongError,
)
from device_runtime.errors import DeviceError, RequestError, ServiceError
from device_runtime.openai_api import Answer, ApiError, ChatRequest, model_list, parse_chat
from device_runtime.status import Figures, Health, RuntimeStatus
from device_runtime.supervisor import BusyError, QueueFullError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20

T = TypeVar("T")


class Generator(Protocol):
    """What answers requests: the supervisor, or a fake."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """See `Supervisor.generate`."""
        ...


class Api:
    """The routes.

    Args:
        generator: answers requests.
        figures: gets the outcome of each.
        status: how everything is, now.
        max_tokens: length of an answer for which a request gives none.
    """

    def __init__(
        self,
        generator: Generator,
        figures: Figures,
        status: Callable[[], RuntimeStatus],
        *,
        max_tokens: int,
    ) -> None:
        self._generator = generator
        self._figures = figures
        self._status = status
        self._max_tokens = max_tokens
        self._identity = status().identity
        self._created = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/status", self._full_status),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ],
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_error,
                ClientDisconnect: _on_disconnect,
                Exception: _on_error,
            },
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse(model_list(self._identity.model, self._created))

    async def _full_status(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._status()), media_type="application/json")

    async def _healthz(self, request: Request) -> Response:
        """Liveness: 200 as long as this process works."""
        return JSONResponse(_health(self._status()))

    async def _readyz(self, request: Request) -> Response:
        """Readiness: 200 only if a request would be worked on now."""
        status = self._status()
        ready = status.health is Health.READY
        return JSONResponse(_health(status), status_code=200 if ready else 503)

    async def _chat(self, request: Request) -> Response:
        try:
            asked = parse_chat(
                await _body(request), model=self._identity.model, max_tokens=self._max_tokens
            )
        except ApiError:
            self._figures.rejected()
            raise
        answer = Answer(
            number=uuid.uuid4().hex,
            created=int(time.time()),
            model=self._identity.model,
            fingerprint=f"fp_{self._identity.release[:12]}",
        )
        chunks = self._observed(asked.generation)
        try:
            # The first chunk only says that the request is accepted: until then, an error can
            # still be an HTTP status.
            await _while_connected(request, anext(chunks))
            if not asked.stream:
                return await _while_connected(request, _collect(chunks, answer))
        except BaseException:
            await chunks.aclose()
            raise
        return _EventStream(chunks, answer, asked)

    async def _observed(self, asked: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """The engine's chunks; counts how the request ends and words its errors for HTTP."""
        outcome = "cancelled"
        try:
            async with aclosing(self._generator.generate(asked)) as chunks:
                async for chunk in chunks:
                    if chunk.usage is not None and chunk.finish_reason != FinishReason.CANCELLED:
                        outcome = "completed"
                        self._figures.completed(chunk.usage)
                    yield chunk
        except DeviceError as error:
            refused = isinstance(error, RequestError | BusyError)
            outcome = "rejected" if refused else "failed"
            raise _api_error(error) from None
        finally:
            if outcome != "completed":
                getattr(self._figures, outcome)()
            log.info("event=chat outcome=%s", outcome)


class _EventStream(StreamingResponse):
    """Server-sent events of one answer; ends the generation however the response ends."""

    def __init__(
        self, chunks: AsyncGenerator[GenerationChunk], answer: Answer, asked: ChatRequest
    ) -> None:
        super().__init__(
            _events(chunks, answer, asked.include_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


async def _events(
    chunks: AsyncIterator[GenerationChunk], answer: Answer, include_usage: bool
) -> AsyncIterator[bytes]:
    yield _event(answer.opening())
    try:
        async for chunk in chunks:
            if chunk.text:
                yield _event(answer.piece(chunk.text))
            if chunk.finish_reason is not None:
                yield _event(answer.closing(chunk.finish_reason))
                if include_usage and chunk.usage is not None:
                    yield _event(answer.totals(chunk.usage))
    except ApiError as error:
        yield _event(error.body)
    else:
        yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


async def _collect(chunks: AsyncIterator[GenerationChunk], answer: Answer) -> Response:
    text = ""
    async for chunk in chunks:
        text += chunk.text
        if chunk.finish_reason is not None and chunk.usage is not None:
            return JSONResponse(answer.whole(text, chunk.finish_reason, chunk.usage))
    raise AssertionError("the last chunk has no finish reason")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await some work, or give it up when the client goes away.

    Raises:
        ClientDisconnect: it went away.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    """The request's body, of which no more is read than may be there."""
    too_large = ApiError(
        f"the body is larger than {MAX_BODY_BYTES} bytes", status=413, code="request_too_large"
    )
    length = request.headers.get("content-length", "0")
    if int(length) > MAX_BODY_BYTES:
        raise too_large
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise too_large
    return bytes(data)


def _api_error(error: DeviceError) -> ApiError:
    message = f"{error}. {error.hint}".strip() if error.hint else str(error)
    if isinstance(error, PromptTooLongError):
        return ApiError(message, param="messages", code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(message, param="messages", code="invalid_value")
    if isinstance(error, BusyError):
        full = isinstance(error, QueueFullError)
        return ApiError(
            message,
            status=429 if full else 503,
            code="queue_full" if full else "model_unavailable",
            retry_after_s=error.retry_after_s,
        )
    if isinstance(error, ServiceError):
        return ApiError(message, status=503, code="stopping")
    return ApiError(message, status=500, code="engine_failed")


def _health(status: RuntimeStatus) -> dict[str, Any]:
    return {
        "health": status.health.value,
        "uptime_s": status.uptime_s,
        "queue_length": status.queue_length,
        "worker_restarts": status.worker_restarts,
        "last_error": status.last_error,
    }


def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 413:
        # What the client still sends is not read.
        headers["Connection"] = "close"
    return JSONResponse(error.body, status_code=error.status, headers=headers)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is nothing at", 405: f"{request.method} is not possible at"}
    message = f"{what.get(error.status_code, error.detail)} {request.url.path}"
    shown = ApiError(message, status=error.status_code)
    return JSONResponse(shown.body, status_code=error.status_code, headers=error.headers)


def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; 499 is what nginx calls it."""
    return Response(status_code=499)


def _on_error(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError("internal error", status=500).body, status_code=500)
