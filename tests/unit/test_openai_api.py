"""OpenAI's JSON, read and written."""

import json
from typing import Any

import pytest

from device_runtime.engine import FinishReason, GenerationRequest, Message, Usage
from device_runtime.openai_api import Answer, ApiError, ChatRequest, parse_chat

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({**HELLO, **fields}).encode(), model="tiny", max_tokens=64)


def test_plain_request_is_greedy_and_has_the_default_length() -> None:
    assert parse() == ChatRequest(
        generation=GenerationRequest(
            prompt=(Message(role="user", content="Hello"),), max_tokens=64, temperature=0.0
        ),
        stream=False,
        include_usage=False,
    )


def test_all_options_reach_the_engine() -> None:
    asked = parse(
        model="tiny",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_completion_tokens=7,
        stop=["a", "b"],
        seed=-3,
        repetition_penalty=1.1,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert asked.generation == GenerationRequest(
        prompt=(Message(role="user", content="Hello"),),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        repetition_penalty=1.1,
        stop=("a", "b"),
        seed=-3,
    )
    assert asked.stream
    assert asked.include_usage


@pytest.mark.parametrize("option", [{"seed": 1}, {"top_p": 0.5}, {"top_k": 5}])
def test_sampling_options_alone_mean_sampling(option: dict[str, Any]) -> None:
    assert parse(**option).generation.temperature == 1.0
    assert parse(**option, temperature=0).generation.temperature == 0.0


def test_content_in_parts_and_the_developer_role() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    asked = parse(messages=[{"role": "developer", "content": parts}])
    assert asked.generation.prompt == (Message(role="system", content="one two"),)


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    earlier = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}
    asked = parse(
        messages=[earlier, *HELLO["messages"]],
        n=1,
        user="me",
        logprobs=False,
        presence_penalty=0.0,
        tools=None,
        response_format={"type": "text"},
        stop=None,
        temperature=None,
    )
    assert len(asked.generation.prompt) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_p": 0.1}, "min_p"),
        ({"model": 5}, "model"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == param
    assert param in caught.value.body["error"]["message"]
    assert caught.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(data, model="tiny", max_tokens=64)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_missing_messages_are_named() -> None:
    with pytest.raises(ApiError, match="messages"):
        parse_chat(b"{}", model="tiny", max_tokens=64)


def test_another_model_does_not_exist() -> None:
    with pytest.raises(ApiError, match="gpt") as caught:
        parse(model="gpt")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_answers_have_the_shape_of_openai() -> None:
    answer = Answer(number="1", created=5, model="tiny", fingerprint="fp")
    usage = Usage(prompt_tokens=2, completion_tokens=3, first_token_s=1, decode_s=1)
    whole = answer.whole("text", FinishReason.LENGTH, usage)
    assert whole["id"] == "chatcmpl-1"
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == "text"
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    pieces = [answer.opening(), answer.piece("text"), answer.closing(FinishReason.STOP)]
    assert [piece["choices"][0]["delta"].get("content") for piece in pieces] == ["", "text", None]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, "stop"]
    assert answer.totals(usage)["choices"] == []
