"""The part of the API's document that is about the Responses API, without its paths."""

from collections.abc import Callable
from typing import Any

import msgspec

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
EXAMPLES = {
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
RESPONSE_ID = {
    "name": "response_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


def query() -> list[dict[str, Any]]:
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


def complete(schemas: dict[str, Any], close: Callable[..., None], components: str) -> None:
    """Add to the schemas what their structs do not say.

    Args:
        schemas: all schemas, by name.
        close: adds fields that are ignored or restricted to a schema; see `openapi`.
        components: what a reference to a schema begins with.
    """
    close(schemas["ResponsesBody"], BODY_WITHOUT_EFFECT, ignored=BODY_IGNORED)
    close(schemas["ReasoningOptions"], REASONING_WITHOUT_EFFECT)
    close(schemas["FunctionToolOfResponses"], TOOL_WITHOUT_EFFECT, ignored=TOOL_IGNORED)
    for item in ITEM_TYPES.values():
        close(schemas[item.__name__], ITEM_WITHOUT_EFFECT, ignored=ITEM_IGNORED)
    for name in ("InputMessage", "ItemReference"):
        schemas[name]["properties"]["type"]["enum"].append(None)  # null means absent
    _, items = schemas["ResponsesBody"]["properties"]["input"]["anyOf"]
    items["items"] = {
        "anyOf": [{"$ref": components + item.__name__} for item in ITEM_TYPES.values()]
    }
