"""Anthropic's answers, written, whole and as events that its client reads."""

import json
from typing import Any

import msgspec
import pytest
from anthropic import types
from pydantic import TypeAdapter

from device_runtime.api.anthropic.requests import parse_message
from device_runtime.api.anthropic.responses import CountAnswer, MessageAnswer
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.tools.dialect import Dialect

META = ResponseMeta(id="1", created=5, model="tiny", system_fingerprint="fp")
SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
USAGE = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, first_token_s=1, decode_s=1)
TOOL = {"name": "add", "input_schema": {"type": "object"}}
EVENT: TypeAdapter[Any] = TypeAdapter(types.RawMessageStreamEvent)


def pushed(*chunks: GenerationChunk, **fields: Any) -> tuple[list[Any], dict[str, Any]]:
    """The events of an answer, and the whole answer; the client's types accept both."""
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "tiny", "max_tokens": 5, "messages": messages, **fields}
    answer = MessageAnswer(META, parse_message(json.dumps(body).encode(), SERVED), SERVED)
    first = GenerationChunk(prompt_tokens=9)
    sent = [event for chunk in (first, *chunks) for event in answer.push(chunk)]
    events = [msgspec.json.decode(msgspec.json.encode(event)) for event in sent]
    for event in events:
        EVENT.validate_python(event)
    whole = msgspec.json.decode(msgspec.json.encode(answer.whole()))
    types.Message.model_validate(whole)
    return events, whole


def end(reason: str = "stop", **fields: Any) -> GenerationChunk:
    return GenerationChunk(finish_reason=FinishReason(reason), usage=USAGE, **fields)


def test_text_whole_and_in_events() -> None:
    events, whole = pushed(GenerationChunk(text="Hel"), GenerationChunk(text="lo"), end())
    usage = {
        "input_tokens": 5,
        "output_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
    }
    assert whole == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    start, *middle, stop = events
    assert start["message"]["usage"]["input_tokens"] == 9
    assert start["message"]["content"] == []
    assert middle == [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hel"},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "lo"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
    ]
    assert stop == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("last", "limit", "reason", "sequence"),
    [
        (end(), 5, "end_turn", None),
        (end(stop="."), 5, "stop_sequence", "."),
        (end("length"), 5, "max_tokens", None),
        (end("length"), 6, "model_context_window_exceeded", None),
    ],
)
def test_reasons_of_the_end(
    last: GenerationChunk, limit: int, reason: str, sequence: str | None
) -> None:
    events, whole = pushed(GenerationChunk(text="x"), last, max_tokens=limit)
    expected = {"stop_reason": reason, "stop_sequence": sequence}
    assert expected.items() <= whole.items()
    assert events[-2]["delta"] == expected


def test_thoughts_are_left_out_if_their_display_is_omitted() -> None:
    events, whole = pushed(
        GenerationChunk(thoughts="H"),
        GenerationChunk(thoughts="m"),
        GenerationChunk(text="So."),
        end(),
        thinking={"type": "adaptive", "display": "omitted"},
    )
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    assert whole["content"][0]["thinking"] == ""
    deltas = [event["delta"]["type"] for event in events if "index" in event and "delta" in event]
    assert deltas == ["signature_delta", "text_delta"]


def test_thoughts_text_and_calls_are_blocks() -> None:
    call = '{"name": "add", "arguments": {"a": 1}}'
    events, whole = pushed(
        GenerationChunk(thoughts="Hm"),
        GenerationChunk(text="So:"),
        GenerationChunk(text=f" <tool_call>\n{call}\n</tool_call>"),
        end(),
        tools=[TOOL],
    )
    thoughts, text, used = whole["content"]
    assert thoughts == {"type": "thinking", "thinking": "Hm", "signature": ""}
    assert text == {"type": "text", "text": "So:"}
    assert (used["name"], used["input"]) == ("add", {"a": 1})
    assert whole["stop_reason"] == "tool_use"
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert [start["index"] for start in starts] == [0, 1, 2]
    assert starts[2]["content_block"]["id"] == used["id"]
    pieces = [
        event["delta"]["partial_json"]
        for event in events
        if event.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert json.loads("".join(pieces)) == {"a": 1}
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == [0, 1, 2]
    signature = {"type": "signature_delta", "signature": ""}
    (signed,) = (place for place, event in enumerate(events) if event.get("delta") == signature)
    assert [event["type"] for event in events[signed : signed + 2]] == [
        "content_block_delta",
        "content_block_stop",
    ]
    assert events[signed]["index"] == events[signed + 1]["index"] == 0


def test_call_that_is_cut_off_is_left_out_of_the_whole() -> None:
    cut = '<tool_call>\n{"name": "add", "arguments": {"a": '
    _, whole = pushed(GenerationChunk(text=cut), end("length"), tools=[TOOL])
    assert whole["content"] == []
    assert whole["stop_reason"] == "max_tokens"


def test_count() -> None:
    body = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    answer = CountAnswer(META, parse_message(json.dumps(body).encode(), SERVED), SERVED)
    assert answer.push(GenerationChunk(prompt_tokens=9)) == []
    assert answer.push(end()) == []
    assert msgspec.to_builtins(answer.whole()) == {"input_tokens": 9}
