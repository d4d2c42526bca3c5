"""Requirements of llama.cpp's server tests on Anthropic's form, with requests of our own.

docs/clients.md counts them. Those that other tests have already are not repeated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import releases, thinking_model
from tests.support.serving import Serving, sent_events

HI: dict[str, Any] = {"role": "user", "content": "Hi"}
TRIP = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "travel", "description": "Travels", "input_schema": TRIP}
FORM = {"output_config": {"format": {"type": "json_schema", "schema": TRIP}}, "max_tokens": 200}
THINKING = {**FORM, "thinking": {"type": "enabled", "budget_tokens": 5}}
CALLING: dict[str, Any] = {
    "tools": [TOOL],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "max_tokens": 200,
}


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service whose model thinks if it is told to."""
    folder = tmp_path_factory.mktemp("anthropic")
    model = folder / "model"
    reasoning = thinking_model.make(
        tiny_onnx, model, thinking_model.QWEN3, thinking_model.QWEN3_TOKENS
    )
    release = releases.release(folder / "release", model, context_length=1024, reasoning=reasoning)
    with Serving(release.folder) as server:
        yield server


def message(server: Serving, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "max_tokens": 8, "messages": [HI], **fields}
    return httpx.post(f"{server.url}/v1/messages", json=body, timeout=60)


def test_message_has_its_fields(server: Serving) -> None:
    answer = message(server).json()
    assert {*answer} == {
        *("id", "type", "role", "model", "content"),
        *("stop_reason", "stop_sequence", "usage"),
    }
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    (block,) = answer["content"]
    assert (block["type"], len(block["text"])) == ("text", 8)
    assert answer["stop_reason"] == "max_tokens"
    usage = answer["usage"]
    assert usage["output_tokens"] == 8
    assert usage["input_tokens"] > 0
    assert usage["cache_read_input_tokens"] >= 0


def block(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def after_call(*blocks: dict[str, Any]) -> dict[str, Any]:
    call = block("tool_use", id="a", name="travel", input={"city": "Rome"})
    answer = {"role": "assistant", "content": [call]}
    return {"messages": [HI, answer, {"role": "user", "content": [*blocks]}]}


RESULT = block("tool_result", tool_use_id="a", content="It is sunny, 25°C.")
ANSWERED: dict[str, dict[str, Any]] = {
    "system": {"system": "Be brief."},
    "blocks": {"messages": [{"role": "user", "content": [block("text", text="a")] * 2}]},
    "conversation": {"messages": [HI, {"role": "assistant", "content": "Ho"}, HI]},
    "stop sequences": {"stop_sequences": ["\n", "END"]},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 40},
    "metadata": {"metadata": {"user_id": "u"}},
    "tools": {"tools": [TOOL]},
    "result": after_call(RESULT),
    "text before a result": after_call(block("text", text="See:"), RESULT),
    "failed call": after_call({**RESULT, "is_error": True}),
}


@pytest.mark.parametrize("fields", ANSWERED.values(), ids=ANSWERED)
def test_message_is_answered(server: Serving, fields: dict[str, Any]) -> None:
    response = message(server, **fields)
    assert response.status_code == 200, response.text
    assert response.json()["type"] == "message"
    assert [part["type"] for part in response.json()["content"]] == ["text"]


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        [{"role": "user", "content": [block("image", source={"type": "base64", "data": "AA=="})]}],
    ],
)
def test_message_is_refused(server: Serving, messages: Any) -> None:
    response = message(server, messages=messages)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith("messages")


@pytest.mark.parametrize("fields", [{}, {"system": "Be brief."}, {"tools": [TOOL]}])
def test_count_has_the_tokens_alone(server: Serving, fields: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": [HI], **fields}
    answer = httpx.post(f"{server.url}/v1/messages/count_tokens", json=body, timeout=60).json()
    usage = message(server, **fields).json()["usage"]
    assert answer == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


@pytest.mark.parametrize(
    ("fields", "kinds", "reason"),
    [
        ({}, ["text"], "max_tokens"),
        (CALLING, ["tool_use"], "tool_use"),
        (THINKING, ["thinking", "text"], "end_turn"),
        ({**CALLING, "thinking": THINKING["thinking"]}, ["thinking", "tool_use"], "tool_use"),
    ],
    ids=["text", "call", "thoughts", "thoughts and a call"],
)
def test_blocks_whole_and_in_events(
    server: Serving, fields: dict[str, Any], kinds: list[str], reason: str
) -> None:
    whole = message(server, **fields).json()
    assert [part["type"] for part in whole["content"]] == kinds
    assert whole["stop_reason"] == reason
    first, *middle, last, end = sent_events(message(server, stream=True, **fields))
    assert (first["type"], end) == ("message_start", {"type": "message_stop"})
    assert (first["message"]["type"], first["message"]["role"]) == ("message", "assistant")
    assert first["message"]["content"] == []
    assert first["message"]["usage"]["input_tokens"] > 0
    assert last["type"] == "message_delta"
    assert last["delta"]["stop_reason"] == reason
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    for index, part in enumerate(whole["content"]):
        start, *deltas, stop = [event for event in middle if event["index"] == index]
        assert start["type"] == "content_block_start"
        assert start["content_block"]["type"] == part["type"]
        assert stop == {"type": "content_block_stop", "index": index}
        assert {event["type"] for event in deltas} == {"content_block_delta"}
        sent = [event["delta"] for event in deltas]
        match part["type"]:
            case "text":
                assert "".join(delta["text"] for delta in sent) == part["text"]
            case "thinking":
                assert sent.pop() == {"type": "signature_delta", "signature": part["signature"]}
                assert "".join(delta["thinking"] for delta in sent) == part["thinking"] != ""
            case "tool_use":
                assert start["content_block"]["name"] == part["name"] == "travel"
                assert {delta["type"] for delta in sent} == {"input_json_delta"}
                assert part["input"]["city"] in ("Paris", "Rome")
                assert part["id"]
    assert [event["index"] for event in middle] == sorted(event["index"] for event in middle)
    assert middle[-1]["index"] == len(kinds) - 1
