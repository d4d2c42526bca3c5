"""The part of the API's document that is about the Responses API."""

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
    ref,
    streamed,
    with_body,
)
from device_runtime.api.openai_responses.events import EVENTS
from device_runtime.api.openai_responses.items import (
    ITEM_IGNORED,
    ITEM_TYPES,
    ITEM_WITHOUT_EFFECT,
)
from device_runtime.api.openai_responses.request_types import (
    BODY_IGNORED,
    BODY_WITHOUT_EFFECT,
    REASONING_WITHOUT_EFFECT,
    TOOL_IGNORED,
    TOOL_WITHOUT_EFFECT,
    ItemQuery,
    ResponsesBody,
)
from device_runtime.api.openai_responses.response_types import (
    DeletedResponse,
    ItemList,
    ResponseObject,
    TokenCount,
)

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    ResponsesBody,
    *ITEM_TYPES.values(),
    ResponseObject,
    ItemList,
    DeletedResponse,
    TokenCount,
    *EVENTS,
)
_EXAMPLES = {
    "question": {"input": "Name the capital of France."},
    "streamed": {
        "instructions": "You are brief.",
        "input": "Tell me about rivers.",
        "stream": True,
        "max_output_tokens": 64,
    },
    "conversation": {
        "input": [
            {"role": "user", "content": "Name the capital of France."},
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": "And of Italy?"},
        ],
        "store": False,
    },
}
_RESPONSE_ID = {
    "name": "response_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


def paths() -> dict[str, Any]:
    """Describe the endpoints."""
    return {
        "/v1/responses": {
            "post": with_body(
                operation(
                    "createResponse",
                    "Answer a conversation, and keep the response for its next turn",
                    streamed("ResponseObject", [event.__name__ for event in EVENTS]),
                    GENERATING,
                ),
                "ResponsesBody",
                _EXAMPLES,
            )
        },
        "/v1/responses/input_tokens": {
            "post": with_body(
                operation(
                    "countInputTokens",
                    "Count the tokens of a request, without an answer",
                    {200: json_answer("TokenCount")},
                    GENERATING,
                ),
                "ResponsesBody",
                {"question": _EXAMPLES["question"]},
            )
        },
        "/v1/responses/{response_id}": {
            "get": operation(
                "retrieveResponse",
                "Retrieve a response that is kept",
                {200: json_answer("ResponseObject")},
                (400, *GUARDED, 404),
            ),
            "delete": operation(
                "deleteResponse",
                "Delete a response that is kept",
                {200: json_answer("DeletedResponse")},
                (*GUARDED, 404),
            ),
            "parameters": [_RESPONSE_ID],
        },
        "/v1/responses/{response_id}/input_items": {
            "get": operation(
                "listInputItems",
                "List the items that a response answers, those of earlier turns included",
                {200: json_answer("ItemList")},
                (400, *GUARDED, 404),
            ),
            "parameters": [_RESPONSE_ID, *_query()],
        },
    }


def _query() -> list[dict[str, Any]]:
    """Return the parameters of a list of items."""
    schema = msgspec.json.schema_components([ItemQuery])[1]["ItemQuery"]
    return [
        {
            "name": name,
            "in": "query",
            "schema": {key: value for key, value in field.items() if key != "description"},
            "description": field["description"],
        }
        for name, field in schema["properties"].items()
    ]


def complete(schemas: dict[str, Any], models: Sequence[str]) -> None:
    """Add to the schemas what their structs do not say.

    Args:
        schemas: all schemas, by name.
        models: the names that a request's `model` can have.
    """
    name_models(schemas["ResponsesBody"], models, required=False)
    close(schemas["ResponsesBody"], BODY_WITHOUT_EFFECT, ignored=BODY_IGNORED)
    close(schemas["ReasoningOptions"], REASONING_WITHOUT_EFFECT)
    close(schemas["FunctionToolOfResponses"], TOOL_WITHOUT_EFFECT, ignored=TOOL_IGNORED)
    for item in ITEM_TYPES.values():
        close(schemas[item.__name__], ITEM_WITHOUT_EFFECT, ignored=ITEM_IGNORED)
    for name in ("InputMessage", "ItemReference"):
        schemas[name]["properties"]["type"]["enum"].append(None)  # null means absent
    _, items = schemas["ResponsesBody"]["properties"]["input"]["anyOf"]
    items["items"] = {"anyOf": [ref(item.__name__) for item in ITEM_TYPES.values()]}
