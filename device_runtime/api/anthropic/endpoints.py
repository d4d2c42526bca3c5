"""Anthropic's endpoints: `/v1/messages`, and `/v1/models` as its clients read it."""

from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.routing import Route

from device_runtime.api.anthropic.requests import MessageRequest, parse_count, parse_message
from device_runtime.api.anthropic.response_types import ErrorMessage, ModelInfo, ModelPage, Ping
from device_runtime.api.anthropic.responses import CountAnswer, MessageAnswer
from device_runtime.api.generation import Endpoint, Generation
from device_runtime.api.outcomes import ApiEndpoint
from device_runtime.api.streaming import Frames, named_event

VERSION_HEADER = "anthropic-version"
"""A header of all requests of Anthropic's clients."""

MESSAGES: Endpoint[MessageRequest] = Endpoint(
    label=ApiEndpoint.MESSAGES,
    prompt="messages",
    parse=parse_message,
    answer=MessageAnswer,
    frames=Frames(
        "text/event-stream",
        named_event,
        lambda error: named_event(ErrorMessage.of(error)),
        waiting=named_event(Ping()),
    ),
)
COUNT_TOKENS: Endpoint[MessageRequest] = Endpoint(
    label=ApiEndpoint.COUNT_TOKENS, prompt="messages", parse=parse_count, answer=CountAnswer
)


def routes(generation: Generation) -> list[Route]:
    """Return the routes of the endpoints that generate."""
    return [
        Route("/v1/messages", generation.at(MESSAGES), methods=["POST"]),
        Route("/v1/messages/count_tokens", generation.at(COUNT_TOKENS), methods=["POST"]),
    ]


def model_info(name: str, created: int) -> ModelInfo:
    """Describe a model; `created` is in seconds of Unix time."""
    return ModelInfo(id=name, display_name=name, created_at=datetime.fromtimestamp(created, UTC))


def model_page(names: Iterable[str], created: int) -> ModelPage:
    """Describe all models, of which there is at least one; see `model_info`."""
    models = [model_info(name, created) for name in names]
    return ModelPage(data=models, first_id=models[0].id, last_id=models[-1].id)
