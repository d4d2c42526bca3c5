"""The parts that the API's document is made of, whichever API they describe.

OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1, with schemas in JSON Schema 2020-12.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

JSON = "application/json"
EVENTS = "text/event-stream"
FORM = "multipart/form-data"

_COMPONENTS = "#/components/schemas/"
REF_TEMPLATE = _COMPONENTS + "{name}"
"""Reference to a schema, as msgspec writes it."""

GUARDED = (401, 403)
"""Statuses of the errors of all endpoints but those about health."""
GENERATING = (400, *GUARDED, 404, 413, 429, 500, 503, 504)
"""Statuses of the errors of endpoints that the model answers."""

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


def operation(
    name: str,
    summary: str,
    answers: Mapping[int, Any],
    errors: Iterable[int],
    *,
    error: str = "Error",
) -> dict[str, Any]:
    """Describe an operation.

    Args:
        name: its id, unique in the document.
        summary: one sentence.
        answers: its responses by status, errors excluded.
        errors: statuses of its errors.
        error: name of the struct that is the body of an error.
    """
    responses = {str(status): response for status, response in answers.items()}
    for status in errors:
        response = answer(_ERRORS[status], {JSON: ref(error)})
        if status in (429, 503):
            response["headers"] = _RETRY_AFTER
        responses[str(status)] = response
    return {"operationId": name, "summary": summary, "responses": responses}


def with_body(
    described: dict[str, Any], body: str, examples: Mapping[str, Any], *, media_type: str = JSON
) -> dict[str, Any]:
    """Add the body of the request to an operation.

    Args:
        described: the operation.
        body: name of the body's struct.
        examples: bodies by their titles.
        media_type: content type of the body: JSON, or a form.
    """
    content = {
        "schema": ref(body),
        "examples": {title: {"value": value} for title, value in examples.items()},
    }
    return described | {"requestBody": {"required": True, "content": {media_type: content}}}


def streamed(
    whole: str, pieces: Sequence[str], *, media_type: str = EVENTS, end: str | None = None
) -> dict[int, Any]:
    """Describe the answers of an operation that can stream.

    Args:
        whole: name of the struct of a whole answer.
        pieces: names of the structs of a streamed one, the first of an ordinary piece.
        media_type: content type of a streamed answer: events, or lines of JSON.
        end: text of the event after the last piece; None for none.
    """
    piece: dict[str, Any] = {"anyOf": [ref(name) for name in pieces]}
    if media_type == EVENTS:
        encoded = {"contentMediaType": JSON, "contentSchema": piece}
        data: dict[str, Any] = {"type": "string", **encoded}
        if end is not None:
            data = {
                "description": f"A {pieces[0]}; an Error if the answer fails; `{end}` at the end.",
                "type": "string",
                "anyOf": [{"const": end}, encoded],
            }
        # The schema of one event, as is usual for server-sent events before OpenAPI 3.2.
        piece = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    form = "server-sent events" if media_type == EVENTS else "lines of JSON"
    return {200: answer(f"The answer; streamed as {form}.", {JSON: ref(whole), media_type: piece})}


def json_answer(*structs: str) -> dict[str, Any]:
    """Describe a response of JSON: one of these structs."""
    schemas = [ref(struct) for struct in structs]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return answer(" or ".join(structs), {JSON: schema})


def answer(description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a response; `content` has schemas by content type."""
    return {
        "description": description,
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def ref(struct: str) -> dict[str, Any]:
    """Refer to the schema of a struct."""
    return {"$ref": _COMPONENTS + struct}


def move_attributes(schema: dict[str, Any]) -> None:
    """Move a docstring's descriptions of attributes to the properties."""
    text = inspect.cleandoc(schema.get("description", ""))
    about, _, attributes = text.partition("\n\nAttributes:\n")
    if about:
        schema["description"] = " ".join(about.split())
    for name, meaning in re.findall(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", attributes):
        words = " ".join(meaning.split())
        schema["properties"][name]["description"] = words[0].upper() + words[1:]


def close(
    schema: dict[str, Any],
    without_effect: Mapping[str, tuple[Any, ...]],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Add the fields outside the struct that `check_fields` ignores or restricts."""
    schema["properties"] |= {name: {"description": "Ignored."} for name in sorted(ignored)} | {
        name: {"description": "Not supported.", "enum": [*values, None]}
        for name, values in without_effect.items()
    }
    schema["additionalProperties"] = False


def name_models(schema: dict[str, Any], names: Iterable[str], *, required: bool) -> None:
    """Restrict the field `model` of a body to names; null, for the default, unless required."""
    model = schema["properties"]["model"]
    model.pop("type", None)
    enum = {"enum": list(names)}
    if required:
        model |= enum
    else:
        model["anyOf"] = [enum, {"type": "null"}]
