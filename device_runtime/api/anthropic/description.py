"""The part of the API's document that is about Anthropic's API."""

from collections.abc import Sequence
from typing import Any

import msgspec

from device_runtime.api.anthropic import response_types as objects
from device_runtime.api.anthropic.endpoints import VERSION_HEADER
from device_runtime.api.anthropic.request_types import (
    IGNORED,
    TOOL_IGNORED,
    TOOL_WITHOUT_EFFECT,
    WITHOUT_EFFECT,
    CountTokensBody,
    MessagesBody,
)
from device_runtime.api.description import (
    GENERATING,
    close,
    json_answer,
    name_models,
    operation,
    streamed,
    with_body,
)

EVENTS: tuple[type[msgspec.Struct], ...] = (
    objects.MessageStart,
    objects.Ping,
    objects.ContentBlockStart,
    objects.ContentBlockDelta,
    objects.ContentBlockStop,
    objects.MessageDelta,
    objects.MessageStop,
    objects.ErrorMessage,
)
"""The events of a streamed answer."""
STRUCTS: tuple[type[msgspec.Struct], ...] = (
    MessagesBody,
    CountTokensBody,
    objects.Message,
    objects.TokensCount,
    objects.ModelPage,
    objects.ModelInfo,
    *EVENTS,
)
VERSION = {
    "name": VERSION_HEADER,
    "in": "header",
    "schema": {"type": "string"},
    "description": "Any version requests Anthropic's form.",
}
"""Header by which Anthropic's clients are recognized."""


def paths(models: Sequence[str]) -> dict[str, Any]:
    """Describe the endpoints; `models` has the names for examples."""
    question = {"role": "user", "content": "Name the capital of France."}
    prompt = {"model": models[0], "messages": [question]}
    streaming = {"system": "You are brief.", "stream": True, "temperature": 0.7}
    return {
        "/v1/messages": {
            "post": with_body(
                operation(
                    "createMessage",
                    "Answer a conversation, in Anthropic's form",
                    streamed("Message", [event.__name__ for event in EVENTS]),
                    GENERATING,
                    error="ErrorMessage",
                ),
                "MessagesBody",
                {
                    "question": prompt | {"max_tokens": 64},
                    "streamed": prompt | {"max_tokens": 64} | streaming,
                },
            )
        },
        "/v1/messages/count_tokens": {
            "post": with_body(
                operation(
                    "countMessageTokens",
                    "Count the tokens of a conversation, without an answer",
                    {200: json_answer("TokensCount")},
                    GENERATING,
                    error="ErrorMessage",
                ),
                "CountTokensBody",
                {"question": prompt},
            )
        },
    }


def complete(schemas: dict[str, Any], models: Sequence[str]) -> None:
    """Add to the schemas what their structs do not say.

    Args:
        schemas: all schemas, by name.
        models: the names that a request's `model` can have.
    """
    close(schemas["ToolParam"], TOOL_WITHOUT_EFFECT, ignored=TOOL_IGNORED)
    for body in ("MessagesBody", "CountTokensBody"):
        close(schemas[body], WITHOUT_EFFECT, ignored=IGNORED)
        name_models(schemas[body], models, required=True)
