"""Ollama's endpoints below `/api`: generation, and descriptions of the model."""

from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.generation import Endpoint, Generation, response
from device_runtime.api.ollama import response_types as objects
from device_runtime.api.ollama.request_types import SHOW_WITHOUT_EFFECT, ShowBody
from device_runtime.api.ollama.requests import (
    LATEST,
    OllamaRequest,
    parse_ollama_chat,
    parse_ollama_generate,
)
from device_runtime.api.ollama.responses import OllamaChatAnswer, OllamaGenerateAnswer
from device_runtime.api.outcomes import ApiEndpoint
from device_runtime.api.served_model import ModelCard
from device_runtime.api.streaming import Frames, json_line
from device_runtime.status.report import RuntimeStatus
from device_runtime.worker.health import Health

API_VERSION = "0.13.0"
"""Version of Ollama whose API is followed; some clients refuse older ones."""

NEVER = datetime(2318, 1, 1, tzinfo=UTC)
"""Time at which a model that stays in memory expires, as Ollama has it."""

LINES = Frames(
    "application/x-ndjson", json_line, lambda error: json_line(objects.OllamaError.of(error))
)
"""Lines of JSON."""

CHAT: Endpoint[OllamaRequest] = Endpoint(
    label=ApiEndpoint.OLLAMA_CHAT,
    prompt="messages",
    parse=parse_ollama_chat,
    answer=OllamaChatAnswer,
    frames=LINES,
)
GENERATE: Endpoint[OllamaRequest] = Endpoint(
    label=ApiEndpoint.OLLAMA_GENERATE,
    prompt="prompt",
    parse=parse_ollama_generate,
    answer=OllamaGenerateAnswer,
    frames=LINES,
)

_UNSUPPORTED = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
    "/api/blobs/{digest}": "POST",
}
"""Endpoints that would change the models, and their methods."""


class OllamaApi:
    """The endpoints of Ollama's API.

    Args:
        generation: answers requests to generate.
        status: returns the current status.
    """

    def __init__(self, generation: Generation, status: Callable[[], RuntimeStatus]) -> None:
        self._generation = generation
        self._served = generation.served
        self._status = status
        self._since = datetime.now(UTC)

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            Route("/api/chat", self._generation.at(CHAT), methods=["POST"]),
            Route("/api/generate", self._generation.at(GENERATE), methods=["POST"]),
            Route("/api/tags", self._tags),
            Route("/api/ps", self._running),
            Route("/api/show", self._show, methods=["POST"]),
            Route("/api/version", self._version),
            *(Route(path, _unsupported, methods=[method]) for path, method in _UNSUPPORTED.items()),
        ]

    async def _tags(self, request: Request) -> Response:
        models = [
            objects.ListedModel(
                name=self._tagged(name),
                model=self._tagged(name),
                modified_at=self._since,
                size=self._card(name).size_bytes,
                digest=self._card(name).digest,
                details=_details(self._card(name)),
            )
            for name in self._served.text_models
        ]
        return response(objects.ModelTags(models))

    async def _running(self, request: Request) -> Response:
        status = self._status()
        if status.health is Health.UNLOADED or not status.worker_memory_bytes:
            return response(objects.RunningModels([]))
        name = self._tagged(self._served.model)
        running = objects.RunningModel(
            name=name,
            model=name,
            size=status.worker_memory_bytes,
            digest=self._served.card.digest,
            details=_details(self._served.card),
            expires_at=NEVER,
            context_length=self._served.card.context_length,
        )
        return response(objects.RunningModels([running]))

    async def _show(self, request: Request) -> Response:
        fields = decode(await self._generation.body(request))
        # Older clients have another name of the field.
        fields.setdefault("model", fields.pop("name", None))
        check_fields(fields, ShowBody, SHOW_WITHOUT_EFFECT)
        body = convert(fields, ShowBody)
        name = body.model.removesuffix(LATEST)
        if name not in self._served.text_models:
            raise ApiError(f"model {body.model!r} not found", status=404, param="model")
        card = self._card(name)
        details = _details(card)
        info = {
            "general.architecture": details.family,
            "general.parameter_count": card.parameters,
            f"{details.family}.context_length": card.context_length,
        }
        capabilities: list[objects.Capability] = ["completion", "tools"]
        if self._served.reasoning is not None:
            capabilities.append("thinking")
        if self._served.vision is not None:
            capabilities.append("vision")
        if name not in self._served.models:
            assert self._served.embedding is not None
            info[f"{details.family}.embedding_length"] = self._served.embedding.dimensions
            capabilities = ["embedding"]
        shown = objects.ShownModel(
            template=card.template,
            license=card.license,
            modified_at=self._since,
            details=details,
            model_info=info,
            capabilities=capabilities,
        )
        return response(shown)

    async def _version(self, request: Request) -> Response:
        return response(objects.OllamaVersion(API_VERSION))

    def _tagged(self, name: str) -> str:
        """Return a model's name with a tag: an adapter's name is one."""
        return name if name in self._served.models[1:] else name + LATEST

    def _card(self, name: str) -> ModelCard:
        served = self._served
        return served.card if name in served.models else served.embedding_card


def _details(card: ModelCard) -> objects.ModelDetails:
    family = card.architecture.removesuffix("ForCausalLM").removesuffix("Model").lower()
    return objects.ModelDetails(
        family=family,
        families=[family],
        parameter_size=_short(card.parameters),
        quantization_level=card.recipe,
    )


async def _unsupported(request: Request) -> Response:
    raise ApiError(
        f"{request.url.path} is not supported: the model comes with the device's bundle, and "
        "changes with it",
        status=501,
        code="unsupported",
    )


def _short(number: int) -> str:
    """Write a number of weights as Ollama does, such as 7.6B or 134.5M; empty for 0."""
    if not number:
        return ""
    unit, letter = (10**9, "B") if number >= 10**9 else (10**6, "M")
    return f"{number / unit:.1f}{letter}"
