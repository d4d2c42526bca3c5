"""The part of the API's document that is about Ollama's API.

Without the endpoints that would change the models: they refuse every request.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from device_runtime.api.description import (
    GENERATING,
    GUARDED,
    close,
    json_answer,
    name_models,
    operation,
    streamed,
    with_body,
)
from device_runtime.api.ollama import embed, request_types
from device_runtime.api.ollama import response_types as objects
from device_runtime.api.ollama.endpoints import LINES
from device_runtime.api.ollama.requests import LATEST

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    request_types.OllamaChatBody,
    request_types.OllamaGenerateBody,
    request_types.ShowBody,
    embed.OllamaEmbedBody,
    embed.OllamaEmbedResponse,
    objects.OllamaChatResponse,
    objects.OllamaGenerateResponse,
    objects.ModelTags,
    objects.RunningModels,
    objects.ShownModel,
    objects.OllamaVersion,
    objects.OllamaError,
)
_ERROR = "OllamaError"


def paths(models: Sequence[str]) -> dict[str, Any]:
    """Describe the endpoints; `models` has the names for examples."""
    model = {"model": models[0]}
    question = model | {"messages": [{"role": "user", "content": "Name the capital of France."}]}
    prompt = model | {"prompt": "Tell me about rivers.", "options": {"num_predict": 64}}
    text = {"model": "EMBEDDING-MODEL", "input": "The food was delicious."}
    return {
        "/api/chat": _generating(
            "ollamaChat",
            "Answer a conversation, in Ollama's form",
            "OllamaChatBody",
            {"streamed": question, "whole": question | {"stream": False}},
            "OllamaChatResponse",
        ),
        "/api/generate": _generating(
            "ollamaGenerate",
            "Answer one prompt",
            "OllamaGenerateBody",
            {"streamed": prompt, "whole": prompt | {"stream": False}},
            "OllamaGenerateResponse",
        ),
        "/api/embed": {
            "post": with_body(
                operation(
                    "ollamaEmbed",
                    "Return the vectors of texts, from the bundle's embedding model",
                    {200: json_answer("OllamaEmbedResponse")},
                    GENERATING,
                    error=_ERROR,
                ),
                "OllamaEmbedBody",
                {"text": text},
            )
        },
        "/api/tags": _get("ollamaTags", "List the models", "ModelTags"),
        "/api/ps": _get("ollamaPs", "List the models in memory", "RunningModels"),
        "/api/show": {
            "post": with_body(
                operation(
                    "ollamaShow",
                    "Describe a model",
                    {200: json_answer("ShownModel")},
                    (400, *GUARDED, 404, 413),
                    error=_ERROR,
                ),
                "ShowBody",
                {"model": model},
            )
        },
        "/api/version": _get(
            "ollamaVersion", "Return the version of Ollama whose API is followed", "OllamaVersion"
        ),
    }


def _generating(
    name: str, summary: str, body: str, examples: dict[str, Any], struct: str
) -> dict[str, Any]:
    answers = streamed(struct, [struct, _ERROR], media_type=LINES.media_type)
    described = operation(name, summary, answers, GENERATING, error=_ERROR)
    return {"post": with_body(described, body, examples)}


def _get(name: str, summary: str, struct: str) -> dict[str, Any]:
    answers = {200: json_answer(struct)}
    return {"get": operation(name, summary, answers, GUARDED, error=_ERROR)}


def complete(schemas: dict[str, Any], models: Sequence[str]) -> None:
    """Add to the schemas what their structs do not say.

    Args:
        schemas: all schemas, by name.
        models: the names that a request's `model` can have.
    """
    close(schemas["OllamaChatBody"], request_types.CHAT_WITHOUT_EFFECT)
    close(schemas["OllamaGenerateBody"], request_types.GENERATE_WITHOUT_EFFECT)
    close(schemas["OllamaMessageParam"], {})
    close(
        schemas["OllamaOptions"],
        request_types.OPTIONS_WITHOUT_EFFECT,
        ignored=request_types.OPTIONS_IGNORED,
    )
    close(schemas["ShowBody"], request_types.SHOW_WITHOUT_EFFECT)
    close(schemas["OllamaEmbedBody"], embed.WITHOUT_EFFECT, ignored=embed.IGNORED)
    names = [*models, *(name + LATEST for name in models)]
    for body in ("OllamaChatBody", "OllamaGenerateBody"):
        name_models(schemas[body], names, required=True)
