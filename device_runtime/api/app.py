"""The HTTP API: the endpoints of OpenAI, Anthropic and Ollama, health, status and metrics."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import UNSET
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device_runtime.api import openapi, update_hold
from device_runtime.api.anthropic import endpoints as anthropic
from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.completion_requests import parse_completion
from device_runtime.api.embeddings import Embedder, Embeddings, parse_embeddings
from device_runtime.api.errors import ApiError
from device_runtime.api.generation import Endpoint, Generation, Generator, response
from device_runtime.api.image_loader import ImageLoader
from device_runtime.api.ollama.embed import parse_ollama_embed
from device_runtime.api.ollama.endpoints import OllamaApi
from device_runtime.api.openai_responses.endpoints import Responses
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.outcomes import ApiEndpoint, error_response
from device_runtime.api.response_types import Model, ModelList
from device_runtime.api.responses import ChatAnswer, CompletionAnswer
from device_runtime.api.served_model import ServedModel
from device_runtime.api.transcriptions import Transcriber, Transcriptions
from device_runtime.inference.engine import GenerationChunk
from device_runtime.status.metrics import CONTENT_TYPE, Metrics
from device_runtime.status.report import HealthReport, RequestStats, RuntimeStatus
from device_runtime.worker.health import Health

CHAT = Endpoint(label=ApiEndpoint.CHAT, prompt="messages", parse=parse_chat, answer=ChatAnswer)
COMPLETIONS = Endpoint(
    label=ApiEndpoint.COMPLETION,
    prompt="prompt",
    parse=parse_completion,
    answer=CompletionAnswer,
)


class Worker(Generator, Embedder, Transcriber, Protocol):
    """The supervisor, or a fake."""


class Api:
    """The HTTP routes.

    Args:
        generator: source of the answers, vectors and transcripts.
        stats: counters of the requests' outcomes.
        status: returns the current status.
        served: the model that answers.
        max_body_bytes: maximum size of a request body.
        max_form_bytes: maximum size of one with a recording.
        runtime_folder: folder for the hold on updates; None if systemd made none.
        store: keeps responses for later requests.
        images: loads images that requests refer to; None to refuse them.
    """

    def __init__(
        self,
        generator: Worker,
        stats: RequestStats,
        status: Callable[[], RuntimeStatus],
        served: ServedModel,
        *,
        max_body_bytes: int = 1 << 20,
        max_form_bytes: int = 1 << 20,
        runtime_folder: Path | None = None,
        store: ResponseStore | None = None,
        images: ImageLoader | None = None,
    ) -> None:
        self._status = status
        self._served = served
        self._runtime_folder = runtime_folder
        self._metrics = Metrics(status)
        self._generation = Generation(
            generator,
            stats,
            self._metrics,
            served,
            images or ImageLoader(),
            fingerprint=f"fp_{status().identity.release[:12]}",
            max_body_bytes=max_body_bytes,
        )
        self._responses = Responses(self._generation, store or ResponseStore(0, 0))
        self._embeddings = Embeddings(generator, self._generation)
        self._transcriptions = Transcriptions(generator, self._generation, max_form_bytes)
        self._created = int(time.time())

    def app(self, extra: Iterable[Route] = ()) -> Starlette:
        """Build the ASGI application.

        Args:
            extra: further routes, such as those of the chat page.
        """
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._generation.at(CHAT), methods=["POST"]),
                Route("/v1/completions", self._generation.at(COMPLETIONS), methods=["POST"]),
                *self._responses.routes(),
                *anthropic.routes(self._generation),
                *OllamaApi(self._generation, self._status).routes(),
                self._embeddings.route("/v1/embeddings", ApiEndpoint.EMBEDDINGS, parse_embeddings),
                self._embeddings.route("/api/embed", ApiEndpoint.OLLAMA_EMBED, parse_ollama_embed),
                *self._transcriptions.routes(),
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/v1/status", self._full_status),
                Route("/v1/update-hold", self._hold, methods=["GET", "PUT", "DELETE"]),
                Route("/metrics", self._metrics_text),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/openapi.json", self._document),
                *extra,
            ],
            exception_handlers={
                ApiError: on_api_error,
                HTTPException: _on_http_error,
                ClientDisconnect: _on_disconnect,
                Exception: _on_error,
            },
        )

    def chat(self, body: bytes) -> AsyncGenerator[GenerationChunk]:
        """Answer a chat request that did not come over HTTP; see `Generation.chat`."""
        return self._generation.chat(body)

    async def _models(self, request: Request) -> Response:
        if anthropic.VERSION_HEADER in request.headers:
            return response(anthropic.model_page(self._served.models, self._created))
        return response(ModelList([self._model_object(name) for name in self._served.all_models]))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in self._served.all_models:
            raise ApiError(f"the model {name!r} does not exist", status=404, code="model_not_found")
        if anthropic.VERSION_HEADER in request.headers:
            return response(anthropic.model_info(name, self._created))
        return response(self._model_object(name))

    def _model_object(self, name: str) -> Model:
        served = self._served
        model = Model(
            id=name,
            created=self._created,
            owned_by="edgepack",
            input_modalities=["text"],
            max_model_len=served.card.context_length,
        )
        changes: dict[str, Any] = {}
        if name in served.models:
            if served.vision is not None:
                changes = {"input_modalities": ["text", "image"]}
        elif name in served.text_models:
            assert served.embedding is not None
            changes = {
                "max_model_len": served.embedding.max_tokens,
                "dimensions": served.embedding.dimensions,
            }
        else:
            assert served.speech is not None
            changes = {
                "input_modalities": ["audio"],
                "max_model_len": UNSET,
                "languages": [*served.speech.languages],
            }
        return msgspec.structs.replace(model, **changes)

    async def _full_status(self, request: Request) -> Response:
        return response(self._status())

    async def _hold(self, request: Request) -> Response:
        if request.method == "PUT":
            body = await self._generation.body(request)
            return response(update_hold.put(self._runtime_folder, body))
        if request.method == "DELETE":
            return response(update_hold.delete(self._runtime_folder))
        return response(update_hold.current(self._runtime_folder))

    async def _metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, request: Request) -> Response:
        """Report liveness: 200 as long as this process works."""
        return response(msgspec.convert(self._status(), HealthReport, from_attributes=True))

    async def _readyz(self, request: Request) -> Response:
        """Report readiness: 200 only if a request can be answered; it may load the model first."""
        status = self._status()
        ready = status.health in (Health.READY, Health.UNLOADED) and not status.damage
        report = msgspec.convert(status, HealthReport, from_attributes=True)
        return response(report, status=200 if ready else 503)

    async def _document(self, request: Request) -> Response:
        return JSONResponse(openapi.document(self._served.models))


def on_api_error(request: Request, error: Exception) -> Response:
    """Return the error as an HTTP response."""
    assert isinstance(error, ApiError)
    # The rest of an oversized body stays unread, so the connection cannot be reused.
    headers = {"Connection": "close"} if error.status == 413 else None
    return error_response(error, request.url.path, headers)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    messages = {
        HTTPStatus.NOT_FOUND: f"no such endpoint: {path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"method {request.method} not allowed for {path}",
    }
    message = messages.get(HTTPStatus(error.status_code), f"{error.detail}: {path}")
    return error_response(ApiError(message, status=error.status_code), path, error.headers)


def _on_disconnect(request: Request, error: Exception) -> Response:
    """Return a response that only the access log sees; 499 is nginx's status for this."""
    return Response(status_code=499)


def _on_error(request: Request, error: Exception) -> Response:
    return error_response(ApiError("internal error", status=500), request.url.path)
