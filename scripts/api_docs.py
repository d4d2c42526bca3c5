"""Write docs/api.md from the API's own description: `python -m scripts.api_docs`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.api.anthropic.description import EVENTS as MESSAGE_EVENTS
from device_runtime.api.description import EVENTS, JSON
from device_runtime.api.ollama.endpoints import LINES
from device_runtime.api.openai_responses.events import EVENTS as RESPONSE_EVENTS
from device_runtime.api.openapi import document

FILE = Path(__file__).parent.parent / "docs" / "api.md"
ADDRESS = "http://127.0.0.1:8080"
MODEL = "smollm2-135m"

INTRO = f"""\
# The API on the device

`edgepack-runtime serve` listens on {ADDRESS}. This page is generated from the code by
`python -m scripts.api_docs`; a device serves the same description as an OpenAPI 3.1 document at
`/openapi.json`, for client generators.

{{about}}

If the device requires an API key, send it as `Authorization: Bearer sk-edgepack-...` or, as
Anthropic's clients do, as `x-api-key: sk-edgepack-...`. Request bodies are JSON, at most 1 MiB, or
16 MiB if the model sees; those with a recording are forms, with up to 25 MiB of it (`max_body_kib`
changes these limits). [dialects.md](dialects.md) tells how Anthropic's and Ollama's fields are
translated.
"""
STREAMING = """\
## Streaming

With `"stream": true` the answer is `text/event-stream`: each event is one line, `data: ...`, and an
empty line. It holds the next chunk as JSON; the last event is `data: [DONE]`. A chunk can hold the
text of several tokens, but never part of a character. If the answer fails, the last event holds an
[Error](#error) instead. To stop an answer, close the connection: the device stops within one token.

The chunks of a chat are [ChatCompletionChunk](#chatcompletionchunk)s: the answer is all
`delta.content` in order. The chunks of a raw completion are [Completion](#completion)s.

The transcript of a recording comes as [TranscriptDelta](#transcriptdelta)s and, at its end, a
[TranscriptDone](#transcriptdone).

A response (`/v1/responses`) is streamed as events with names, as OpenAI publishes them: a line
`event: ...` with the name, which is also the field `type`, and a line `data: ...`. There is no
`[DONE]`: the last event is `response.completed`, `response.incomplete` or `response.failed`, each
with the whole [response](#responseobject).

| event | meaning | fields besides `type` and `sequence_number` |
|---|---|---|
{response_events}

A message (`/v1/messages`) is streamed in the same way, in Anthropic's events. Each block of the
[message](#message) starts, gets its deltas and stops; the last event is `message_stop`, or `error`.

| event | meaning | fields besides `type` |
|---|---|---|
{message_events}

Ollama's answers are streamed unless the request has `"stream": false`, as `{lines}`: each line is
an object like the whole answer, with the next part of it, and the last has `"done": true`. If the
answer fails, the last line is an [OllamaError](#ollamaerror).
"""


def render() -> str:
    """Return the whole page."""
    described = document([MODEL])
    schemas = described["components"]["schemas"]
    parts = [INTRO.format(about=described["info"]["description"])]
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                parts.append("\n".join(_operation(path, method, operation, schemas)))
    streaming = STREAMING.format(
        response_events="\n".join(_events(RESPONSE_EVENTS, schemas)),
        message_events="\n".join(_events(MESSAGE_EVENTS, schemas)),
        lines=LINES.media_type,
    )
    parts.append(streaming)
    parts.append("\n".join(_errors(described["paths"])))
    parts.append("## Objects\n")
    events = {event.__name__ for event in (*RESPONSE_EVENTS, *MESSAGE_EVENTS)} - {"ErrorMessage"}
    for name in sorted(schemas):
        if not name.endswith("Body") and name not in events:
            parts.append("\n".join([f"### {name}\n", *_fields(schemas[name])]))
    return "\n".join(parts)


def _operation(
    path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[str]:
    yield f"## {method.upper()} {path}\n"
    yield f"{operation['summary']}.\n"
    content = operation["responses"]["200"]["content"]
    shown_as = {
        EVENTS: "with `stream` [events](#streaming)",
        LINES.media_type: "unless `stream` is false as [lines](#streaming)",
    }
    kinds = [
        _type(part["schema"]) if kind == JSON else shown_as.get(kind, f"`{kind}`")
        for kind, part in content.items()
    ]
    body = operation.get("requestBody")
    option = f" -X {method.upper()}" if method in ("put", "delete") else ""
    path = path.replace("{model}", MODEL).replace("{response_id}", "resp_...")
    command = f"curl{option} {ADDRESS}{path}"
    if body is None:
        yield f"```sh\n{command}\n```\n"
        yield f"Answer: {', '.join(kinds)}.\n"
        return
    ((media_type, media),) = body["content"].items()
    for name, example in media["examples"].items():
        if media_type == JSON:
            shown = json.dumps(example["value"], indent=2)
            options = f"-H 'Content-Type: application/json' -d '{shown}'"
        else:
            options = " ".join(f"-F {field}={value}" for field, value in example["value"].items())
        yield f"{name.capitalize()}:\n"
        yield f"```sh\n{command} {options}\n```\n"
    yield f"Answer: {', '.join(kinds)}.\n"
    yield from _fields(schemas[media["schema"]["$ref"].rpartition("/")[2]])


def _events(events: Sequence[type[msgspec.Struct]], schemas: dict[str, Any]) -> Iterator[str]:
    for event in events:
        schema = schemas[event.__name__]
        fields = schema["properties"].items()
        shown = ", ".join(
            f"`{name}`" if event in RESPONSE_EVENTS else f"`{name}`: {_type(field)}"
            for name, field in sorted(fields)
            if name not in ("type", "sequence_number")
        )
        yield f"| `{event.__struct_config__.tag}` | {schema['description']} | {shown} |"


def _errors(paths: dict[str, Any]) -> Iterator[str]:
    yield "## Errors\n"
    yield (
        "Any status but 200 comes with an [Error](#error), in OpenAI's format; below "
        "`/v1/messages` with an [ErrorMessage](#errormessage), in Anthropic's, and below "
        "`/api` with an [OllamaError](#ollamaerror), in Ollama's.\n"
    )
    yield "| status | meaning |\n|---|---|"
    errors = {
        status: response
        for item in paths.values()
        for method, operation in item.items()
        if method != "parameters"
        for status, response in operation["responses"].items()
        if response["content"].get(JSON, {}).get("schema", {}).get("$ref", "").endswith("/Error")
    }
    for status, response in sorted(errors.items()):
        retry = " `Retry-After` has the seconds to wait." if "headers" in response else ""
        yield f"| {status} | {response['description']}{retry} |"
    yield (
        "\nRequests that reach no endpoint get 400 (malformed), 404, 405 (another method), 408 "
        "(sent too slowly), 431 (the head is too large) or 503 (too many connections).\n"
    )


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """Yield a table of an object's fields, or the values of an enumeration."""
    # In a request, null means absent, and unknown fields are refused.
    in_request = schema.get("additionalProperties") is False
    required = {*schema["required"]} if in_request else set()
    if about := schema.get("description", ""):
        yield f"{about}\n"
    if "enum" in schema:
        yield " · ".join(f"`{value}`" for value in schema["enum"]) + "\n"
        return
    yield "| field | type | meaning |\n|---|---|---|"
    unsupported = []
    fields = schema["properties"].items()
    for name, field in sorted(fields, key=lambda item: item[0] not in required):
        meaning = field.get("description", "")
        if meaning == "Not supported.":
            unsupported.append(f"`{name}`")
            continue
        mark = ", required" if name in required else ""
        yield f"| `{name}`{mark} | {_type(field, null=not in_request)} | {_in_a_cell(meaning)} |"
    yield ""
    if unsupported:
        yield f"Not supported (refused unless the value is neutral): {', '.join(unsupported)}.\n"


def _type(schema: dict[str, Any], *, null: bool = True) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        values = [value for value in schema["enum"] if null or value is not None]
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "anyOf" in schema and "type" not in schema:
        kinds = [kind for kind in schema["anyOf"] if null or kind != {"type": "null"}]
        return " or ".join(_type(kind, null=null) for kind in kinds)
    kind = schema.get("type", "any")
    if kind == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"array of {_type(schema.get('items', {}))}{most}"
    if kind == "object" and "additionalProperties" in schema:
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind) + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and abs(high) >= 2**31 - 1:
        high = None
    if low is not None and abs(low) >= 2**31 - 1:
        low = None
    if "exclusiveMinimum" in schema:
        return f", above {schema['exclusiveMinimum']}, at most {high}"
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at least {low}" if low is not None else ""


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
