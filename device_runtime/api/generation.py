"""The endpoints that generate: from a request's body to the answer, in any of the APIs."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.image_loader import ImageLoader
from device_runtime.api.outcomes import ApiEndpoint, ObservedRequest
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.responses import Answer
from device_runtime.api.served_model import ServedModel
from device_runtime.api.streaming import (
    EVENTS,
    Chunks,
    Frames,
    deliver,
    while_connected,
)
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.json_schema.keywords import KEYWORDS
from device_runtime.logs import event
from device_runtime.status.metrics import Metrics
from device_runtime.status.report import Outcome, RequestStats

IGNORED_HEADER = "X-Edgepack-Ignored-Keywords"
MAX_HEADER = 1000
"""Characters of that header; proxies and clients take at least 4,096 for all headers."""

LARGE = 1 << 20
LARGE_BODIES = 8
"""Bodies of more than `LARGE` bytes that are read at the same time: those with images. Each of many
connections could send one, which together would exceed a small device's memory."""

log = logging.getLogger(__name__)

P = TypeVar("P", bound=ParsedRequest)


class Generator(Protocol):
    """A source of answers: the supervisor, or a fake."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """See `Supervisor.generate`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Endpoint(Generic[P]):
    """An endpoint that generates: what its requests and answers look like.

    Attributes:
        label: its label in the metrics.
        prompt: name of the field with the prompt, for errors.
        parse: parses the body of a request; raises ApiError.
        answer: begins the answer to a request.
        frames: form of a streamed answer.
    """

    label: ApiEndpoint
    prompt: str
    parse: Callable[[bytes, ServedModel], P]
    answer: Callable[[ResponseMeta, P, ServedModel], Answer]
    frames: Frames = EVENTS


class Generation:
    """Answers requests to generate.

    Args:
        generator: source of the answers.
        stats: counters of the requests' outcomes.
        metrics: counters and times for Prometheus.
        served: the model that answers.
        images: loads images that requests refer to.
        fingerprint: name of the release in answers.
        max_body_bytes: maximum size of a request body.
    """

    def __init__(
        self,
        generator: Generator,
        stats: RequestStats,
        metrics: Metrics,
        served: ServedModel,
        images: ImageLoader,
        *,
        fingerprint: str,
        max_body_bytes: int,
    ) -> None:
        self._generator = generator
        self._stats = stats
        self._metrics = metrics
        self.served = served
        self._images = images
        self._fingerprint = fingerprint
        self._max_body_bytes = max_body_bytes
        self._large_bodies = asyncio.Semaphore(LARGE_BODIES)

    async def chat(self, body: bytes) -> AsyncGenerator[GenerationChunk]:
        """Answer a chat request that did not come over HTTP, as the engine does.

        Raises:
            ApiError: the request is invalid, or cannot be answered.
        """
        observed = ObservedRequest(ApiEndpoint.CHAT, "messages", self._stats, self._metrics, {})
        try:
            parsed = await self._images.load(parse_chat(body, self.served))
        except ApiError:
            observed.end(Outcome.REJECTED)
            raise
        async with aclosing(observed.chunks(self._generator.generate(parsed.generation))) as chunks:
            async for chunk in chunks:
                yield chunk

    def at(self, endpoint: Endpoint[P]) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of an endpoint, for its route."""

        async def handle(request: Request) -> Response:
            return await self._answer(request, endpoint)

        return handle

    def observed(self, request: Request, label: ApiEndpoint, prompt: str) -> ObservedRequest:
        """Count a request that has arrived at an endpoint; arguments are those of `Endpoint`."""
        entry = request.scope.get("state", {}).get("log", {})
        return ObservedRequest(label, prompt, self._stats, self._metrics, entry)

    async def body(self, request: Request, max_bytes: int = 0) -> bytes:
        """Read the request's body, up to a limit and no further.

        Args:
            request: the request.
            max_bytes: the limit; 0 for the one that most endpoints have.

        Raises:
            ApiError: it exceeds the limit.
        """
        max_bytes = max_bytes or self._max_body_bytes
        too_large = ApiError(
            f"the request body exceeds {max_bytes} bytes",
            status=413,
            code="request_too_large",
        )
        length = request.headers.get("content-length", "0")
        if int(length) > max_bytes:
            raise too_large
        data = bytearray()
        async with AsyncExitStack() as held:
            is_large = False
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_bytes:
                    raise too_large
                if len(data) > LARGE and not is_large:
                    is_large = True
                    await held.enter_async_context(self._large_bodies)
        return bytes(data)

    async def _answer(self, request: Request, endpoint: Endpoint[P]) -> Response:
        observed = self.observed(request, endpoint.label, endpoint.prompt)
        try:
            parsed = endpoint.parse(await self.body(request), self.served)
            if parsed.links:
                parsed = await while_connected(request, self._images.load(parsed))
        except ApiError:
            observed.end(Outcome.REJECTED)
            raise
        meta = ResponseMeta(
            id=uuid.uuid4().hex,
            created=int(time.time()),
            model=parsed.model,
            system_fingerprint=self._fingerprint,
        )
        headers = _ignored(parsed.ignored_keywords)
        answer = endpoint.answer(meta, parsed, self.served)
        chunks = Chunks(observed.chunks(self._generator.generate(parsed.generation)))
        frames = endpoint.frames if parsed.stream else None
        streamed = await deliver(request, chunks, answer, frames, headers)
        return streamed or response(answer.whole(), headers=headers)


def response(
    value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an object as a response of JSON."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def _ignored(paths: tuple[str, ...]) -> dict[str, str]:
    """Return the header about keywords of schemas that are not enforced, and log them.

    The log gets the keywords alone: their paths are the client's own words.
    """
    if not paths:
        return {}
    keywords = sorted({path.rpartition(".")[2] for path in paths} & KEYWORDS)
    event(log, logging.INFO, "keywords_ignored", keywords=" ".join(keywords), count=len(paths))
    text = ", ".join(paths)
    return {IGNORED_HEADER: text if len(text) <= MAX_HEADER else text[: MAX_HEADER - 3] + "..."}
