"""The API's own description: an OpenAPI document, generated from the structs it reads and writes.

OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1, with schemas in JSON Schema 2020-12.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec

import device_runtime
from device_runtime.api import response_types as objects
from device_runtime.api.chat_types import CHAT_WITHOUT_EFFECT, TURN_WITHOUT_EFFECT, ChatBody
from device_runtime.api.completion_types import COMPLETION_WITHOUT_EFFECT, CompletionBody
from device_runtime.api.embedding_types import EmbeddingBody, EmbeddingList
from device_runtime.api.openai_responses import description as responses
from device_runtime.api.openai_responses.events import EVENTS as RESPONSE_EVENTS
from device_runtime.api.request_types import IGNORED, STREAM_OPTIONS_WITHOUT_EFFECT, HoldBody
from device_runtime.status.metrics import CONTENT_TYPE as METRICS_TYPE
from device_runtime.status.report import HealthReport, RuntimeStatus

JSON = "application/json"
EVENTS = "text/event-stream"

_ABOUT = """\
OpenAI's API, served by the device itself. A field that cannot be honoured is refused with an error
that names it; null means absent."""
_COMPONENTS = "#/components/schemas/"
_STRUCTS: tuple[type[msgspec.Struct], ...] = (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    EmbeddingList,
    HoldBody,
    objects.ChatCompletion,
    objects.ChatCompletionChunk,
    objects.Completion,
    objects.ModelList,
    objects.Model,
    objects.UpdateHold,
    objects.Error,
    *responses.STRUCTS,
    RuntimeStatus,
    HealthReport,
)
_ERRORS = {
    400: "The request is invalid or not supported by this device; `param` names the field.",
    401: "An API key is required, and it is missing or invalid.",
    403: "Requests from web pages of this origin, or for this host, are refused.",
    404: "The model does not exist, or the response is not kept here.",
    413: "The request body is too large.",
    429: "The queue is full.",
    500: "The model failed, or its process ended; the next request gets a new process.",
    501: "Updates cannot be held: the service has no runtime folder, as systemd makes it.",
    503: "The model is not available: it keeps failing, memory is short, or the service is "
    "stopping.",
    504: "The request timed out, queueing included.",
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_GUARDED = (401, 403)
_GENERATING = (400, 401, 403, 404, 413, 429, 500, 503, 504)
_CHAT_EXAMPLES = {
    "question": {"messages": [{"role": "user", "content": "Name the capital of France."}]},
    "streamed": {
        "messages": [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": "Tell me about rivers."},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "max_tokens": 64,
    },
    "json": {
        "messages": [{"role": "user", "content": "Paris, as JSON."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "city",
                "schema": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "maxLength": 30}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
    },
}


def document(models: Iterable[str]) -> dict[str, Any]:
    """Build the OpenAPI document.

    Args:
        models: the names that a request's `model` can have.
    """
    names = list(models)
    schemas = _schemas()
    for body in ("ChatBody", "CompletionBody", "ResponsesBody"):
        model = schemas[body]["properties"]["model"]
        model["anyOf"] = [{"enum": names}, {"type": "null"}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgepack",
            "version": device_runtime.__version__,
            "summary": "A language model on this device",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Keys are required only if the device has a key file.
        "security": [{}, {"key": []}],
        "paths": _paths(names),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(models: list[str]) -> dict[str, Any]:
    return {
        "/v1/chat/completions": {
            "post": _generating(
                "createChatCompletion",
                "Answer a conversation",
                "ChatBody",
                _CHAT_EXAMPLES,
                "ChatCompletion",
                ["ChatCompletionChunk", "Error"],
            )
        },
        "/v1/completions": {
            "post": _generating(
                "createCompletion",
                "Continue raw text",
                "CompletionBody",
                {"text": {"prompt": "Once upon a time", "max_tokens": 20}},
                "Completion",
                ["Completion", "Error"],
            )
        },
        "/v1/embeddings": {
            "post": _with_body(
                _operation(
                    "createEmbedding",
                    "Return the vectors of texts, from the bundle's embedding model",
                    {200: _json("EmbeddingList")},
                    _GENERATING,
                ),
                "EmbeddingBody",
                {"text": {"input": "The food was delicious."}},
            )
        },
        "/v1/responses": {
            "post": _generating(
                "createResponse",
                "Answer a conversation, and keep the response for its next turn",
                "ResponsesBody",
                responses.EXAMPLES,
                "ResponseObject",
                [event.__name__ for event in RESPONSE_EVENTS],
                end=None,
            )
        },
        "/v1/responses/input_tokens": {
            "post": _with_body(
                _operation(
                    "countInputTokens",
                    "Count the tokens of a request, without an answer",
                    {200: _json("TokenCount")},
                    _GENERATING,
                ),
                "ResponsesBody",
                {"question": responses.EXAMPLES["question"]},
            )
        },
        "/v1/responses/{response_id}": {
            "get": _operation(
                "retrieveResponse",
                "Retrieve a response that is kept",
                {200: _json("ResponseObject")},
                (*_GUARDED, 404),
            ),
            "delete": _operation(
                "deleteResponse",
                "Delete a response that is kept",
                {200: _json("DeletedResponse")},
                (*_GUARDED, 404),
            ),
            "parameters": [responses.RESPONSE_ID],
        },
        "/v1/responses/{response_id}/input_items": {
            "get": _operation(
                "listInputItems",
                "List the items that a response answers, those of earlier turns included",
                {200: _json("ItemList")},
                (400, *_GUARDED, 404),
            ),
            "parameters": [responses.RESPONSE_ID, *responses.query()],
        },
        "/v1/models": {
            "get": _operation("listModels", "List the models", {200: _json("ModelList")}, _GUARDED)
        },
        "/v1/models/{model}": {
            "get": _operation(
                "retrieveModel", "Retrieve one model", {200: _json("Model")}, (*_GUARDED, 404)
            ),
            "parameters": [
                {
                    "name": "model",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                    "examples": {"model": {"value": models[0]}},
                }
            ],
        },
        "/v1/status": {
            "get": _operation(
                "getStatus", "Report the device's status", {200: _json("RuntimeStatus")}, _GUARDED
            )
        },
        "/v1/update-hold": {
            "get": _operation(
                "getUpdateHold",
                "Report whether updates are held",
                {200: _json("UpdateHold")},
                _GUARDED,
            ),
            "put": _with_body(
                _operation(
                    "putUpdateHold",
                    "Hold updates for some time: installations are refused with the reason",
                    {200: _json("UpdateHold")},
                    (400, *_GUARDED, 413, 501),
                ),
                "HoldBody",
                {"hold": {"reason": "a customer is being served", "seconds": 600}},
            ),
            "delete": _operation(
                "deleteUpdateHold",
                "End the hold",
                {200: _json("UpdateHold")},
                (*_GUARDED, 501),
            ),
        },
        "/metrics": {
            "get": _operation(
                "getMetrics",
                "Report metrics for Prometheus",
                {200: _answer("Prometheus text format.", {METRICS_TYPE: {"type": "string"}})},
                _GUARDED,
            )
        },
        "/healthz": {
            "get": _operation(
                "getHealth",
                "Report liveness: 200 as long as the service works; needs no key",
                {200: _json("HealthReport")},
                (403,),
            )
        },
        "/readyz": {
            "get": _operation(
                "getReadiness",
                "Report readiness: 200 only if the model can answer a request now; needs no key",
                {200: _json("HealthReport"), 503: _json("HealthReport")},
                (403,),
            )
        },
        "/openapi.json": {
            "get": _operation(
                "getDocument",
                "Return this document",
                {200: _answer("An OpenAPI document.", {JSON: {"type": "object"}})},
                _GUARDED,
            )
        },
    }


def _generating(
    name: str,
    summary: str,
    body: str,
    examples: dict[str, Any],
    whole: str,
    pieces: list[str],
    *,
    end: str | None = "[DONE]",
) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "contentMediaType": JSON,
        "contentSchema": {"anyOf": [{"$ref": _COMPONENTS + piece} for piece in pieces]},
    }
    data: dict[str, Any] = {"type": "string", **encoded}
    if end is not None:
        data = {
            "description": f"A {pieces[0]}; an Error if the answer fails; `{end}` at the end.",
            "type": "string",
            "anyOf": [{"const": end}, encoded],
        }
    # The schema of one event, as is usual for server-sent events before OpenAPI 3.2.
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    answer = _answer(
        "The answer; with `stream`, as server-sent events.",
        {JSON: {"$ref": _COMPONENTS + whole}, EVENTS: event},
    )
    return _with_body(_operation(name, summary, {200: answer}, _GENERATING), body, examples)


def _with_body(operation: dict[str, Any], body: str, examples: dict[str, Any]) -> dict[str, Any]:
    content = {
        "schema": {"$ref": _COMPONENTS + body},
        "examples": {title: {"value": value} for title, value in examples.items()},
    }
    return operation | {"requestBody": {"required": True, "content": {JSON: content}}}


def _operation(
    name: str, summary: str, answers: dict[int, Any], errors: Iterable[int]
) -> dict[str, Any]:
    responses = {str(status): answer for status, answer in answers.items()}
    for status in errors:
        response = _answer(_ERRORS[status], {JSON: {"$ref": _COMPONENTS + "Error"}})
        if status in (429, 503):
            response["headers"] = _RETRY_AFTER
        responses[str(status)] = response
    return {"operationId": name, "summary": summary, "responses": responses}


def _json(struct: str) -> dict[str, Any]:
    return _answer(struct, {JSON: {"$ref": _COMPONENTS + struct}})


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_COMPONENTS + "{name}")
    for schema in schemas.values():
        _describe(schema)
    status, health = schemas["RuntimeStatus"]["properties"], schemas["HealthReport"]["properties"]
    health |= {name: status[name] for name in health}
    _close(schemas["ChatBody"], CHAT_WITHOUT_EFFECT, ignored=IGNORED)
    _close(schemas["CompletionBody"], COMPLETION_WITHOUT_EFFECT, ignored=IGNORED)
    _close(schemas["Turn"], TURN_WITHOUT_EFFECT)
    _close(schemas["StreamOptions"], STREAM_OPTIONS_WITHOUT_EFFECT)
    _close(schemas["EmbeddingBody"], {}, ignored=IGNORED)
    _close(schemas["HoldBody"], {})
    responses.complete(schemas, _close, _COMPONENTS)
    return schemas


def _describe(schema: dict[str, Any]) -> None:
    """Move a docstring's descriptions of attributes to the properties."""
    text = inspect.cleandoc(schema.get("description", ""))
    about, _, attributes = text.partition("\n\nAttributes:\n")
    if about:
        schema["description"] = " ".join(about.split())
    for name, meaning in re.findall(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", attributes):
        words = " ".join(meaning.split())
        schema["properties"][name]["description"] = words[0].upper() + words[1:]


def _close(
    schema: dict[str, Any],
    without_effect: dict[str, tuple[Any, ...]],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Add the fields outside the struct that `check_fields` ignores or restricts."""
    schema["properties"] |= {name: {"description": "Ignored."} for name in sorted(ignored)} | {
        name: {"description": "Not supported.", "enum": [*values, None]}
        for name, values in without_effect.items()
    }
    schema["additionalProperties"] = False
