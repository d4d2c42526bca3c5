"""The types of OpenAI's own client, field by field: each one is known here, or refused by name."""

import json
import typing
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import pytest
from openai.types import chat, completion_create_params, shared_params
from openai.types.chat import (
    chat_completion_content_part_image_param,
    chat_completion_content_part_param,
    chat_completion_message_function_tool_call_param,
    chat_completion_named_tool_choice_param,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.shared_params import response_format_json_schema
from typing_extensions import is_typeddict

from device_runtime.api import chat_types, request_types
from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.completion_types import COMPLETION_WITHOUT_EFFECT, CompletionBody
from device_runtime.api.errors import ApiError
from device_runtime.api.request_types import IGNORED, STREAM_OPTIONS_WITHOUT_EFFECT
from device_runtime.api.served_model import ServedModel
from device_runtime.tools.dialect import Dialect

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)

KNOWN: dict[Any, tuple[type[msgspec.Struct], Collection[str]]] = {
    chat_create_params.CompletionCreateParamsStreaming: (
        chat_types.ChatBody,
        IGNORED | chat_types.CHAT_WITHOUT_EFFECT.keys(),
    ),
    completion_create_params.CompletionCreateParamsStreaming: (
        CompletionBody,
        IGNORED | COMPLETION_WITHOUT_EFFECT.keys(),
    ),
    chat.ChatCompletionStreamOptionsParam: (
        request_types.StreamOptions,
        set(STREAM_OPTIONS_WITHOUT_EFFECT),
    ),
    **dict.fromkeys(
        (
            chat.ChatCompletionDeveloperMessageParam,
            chat.ChatCompletionSystemMessageParam,
            chat.ChatCompletionUserMessageParam,
            chat.ChatCompletionAssistantMessageParam,
            chat.ChatCompletionToolMessageParam,
        ),
        (chat_types.Turn, set(chat_types.TURN_WITHOUT_EFFECT)),
    ),
    chat.ChatCompletionContentPartTextParam: (
        chat_types.TextPart,
        {"type", "prompt_cache_breakpoint"},
    ),
    chat.ChatCompletionContentPartImageParam: (
        chat_types.ImagePart,
        {"type", "prompt_cache_breakpoint"},
    ),
    chat_completion_content_part_image_param.ImageURL: (chat_types.ImageUrl, set()),
    chat.ChatCompletionMessageFunctionToolCallParam: (chat_types.ToolCall, set()),
    chat_completion_message_function_tool_call_param.Function: (chat_types.CalledFunction, set()),
    chat.ChatCompletionFunctionToolParam: (chat_types.FunctionTool, set()),
    shared_params.FunctionDefinition: (chat_types.Function, set()),
    chat.ChatCompletionNamedToolChoiceParam: (chat_types.NamedTool, {"type"}),
    chat.ChatCompletionAllowedToolChoiceParam: (chat_types.AllowedToolChoice, {"type"}),
    chat.ChatCompletionAllowedToolsParam: (chat_types.AllowedTools, set()),
    chat_completion_named_tool_choice_param.Function: (chat_types.NamedFunction, set()),
    shared_params.ResponseFormatText: (chat_types.ResponseFormat, set()),
    shared_params.ResponseFormatJSONObject: (chat_types.ResponseFormat, set()),
    shared_params.ResponseFormatJSONSchema: (chat_types.ResponseFormat, set()),
    response_format_json_schema.JSONSchema: (chat_types.JsonSchema, set()),
}
"""OpenAI's type, ours, and the fields that are ignored or taken only with a neutral value."""


def user(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", **fields}]}


PART = "messages[0].content[0].type"
REFUSED: dict[Any, tuple[dict[str, Any], str]] = {
    chat.ChatCompletionContentPartInputAudioParam: (
        user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        PART,
    ),
    chat_completion_content_part_param.File: (
        user({"type": "file", "file": {"file_id": "file-1"}}),
        PART,
    ),
    chat.ChatCompletionContentPartRefusalParam: (
        assistant(content=[{"type": "refusal", "refusal": "No."}]),
        "messages[1].content[0].type",
    ),
    chat.ChatCompletionFunctionMessageParam: (
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        "messages[0].role",
    ),
    chat.ChatCompletionMessageCustomToolCallParam: (
        assistant(
            tool_calls=[{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]
        ),
        "messages[1].tool_calls[0].type",
    ),
    chat.ChatCompletionCustomToolParam: (
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        "tools[0].type",
    ),
    chat.ChatCompletionNamedToolChoiceCustomParam: (
        {"tool_choice": {"type": "custom", "custom": {"name": "f"}}},
        "tool_choice.type",
    ),
}
"""OpenAI's types that ask for what the device does not have, a request, and the field named."""


def nested(annotation: Any) -> Iterator[Any]:
    """Yield the typed dictionaries in an annotation."""
    if is_typeddict(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from nested(argument)


def official_types() -> list[Any]:
    """List OpenAI's types, down from the two bodies through all fields that are taken."""
    types = [
        chat_create_params.CompletionCreateParamsStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ]
    for kind in types:
        for name, annotation in typing.get_type_hints(kind).items():
            if kind in KNOWN and name not in KNOWN[kind][1]:
                types += [other for other in nested(annotation) if other not in types]
    return types


@pytest.mark.parametrize("kind", official_types(), ids=lambda kind: kind.__name__)
def test_each_official_type_and_field_is_decided(kind: Any) -> None:
    assert (kind in KNOWN) != (kind in REFUSED), f"{kind} is new: take it, or refuse it by name"
    if kind in KNOWN:
        ours, others = KNOWN[kind]
        missing = typing.get_type_hints(kind).keys() - {*ours.__struct_fields__, *others}
        assert not missing, f"new fields of {kind}: take, ignore or refuse them"


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_the_device_does_not_have_is_refused_by_name(kind: Any) -> None:
    fields, param = REFUSED[kind]
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(ApiError) as caught:
        parse_chat(json.dumps(hello | fields).encode(), SERVED)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("function_call", {"name": "f"}),
        ("functions", [{"name": "f"}]),
        ("modalities", ["text", "audio"]),
        ("moderation", {"model": "m"}),
        ("service_tier", "flex"),
        ("store", True),
        ("web_search_options", {}),
    ],
)
def test_fields_that_would_change_the_answer_are_refused(field: str, value: object) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], field: value}
    with pytest.raises(ApiError, match=f"{field} is supported only as") as caught:
        parse_chat(json.dumps(body).encode(), SERVED)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_marks_for_a_prompt_cache_are_ignored() -> None:
    part = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
    plain = {"messages": [{"role": "user", "content": "x"}]}
    assert parse_chat(json.dumps(user(part)).encode(), SERVED) == parse_chat(
        json.dumps(plain).encode(), SERVED
    )
