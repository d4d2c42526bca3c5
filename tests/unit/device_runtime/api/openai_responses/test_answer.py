"""Responses and their events, checked with the types of OpenAI's own client."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from device_runtime.api.errors import ApiError
from device_runtime.api.openai_responses.answer import ResponseAnswer
from device_runtime.api.openai_responses.requests import parse_response
from device_runtime.api.openai_responses.response_types import ResponseObject
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, TokenLogprob, Usage
from device_runtime.tools.dialect import Dialect

META = ResponseMeta(id="1", created=5, model="tiny", system_fingerprint="fp")
SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
USAGE = Usage(
    prompt_tokens=9,
    completion_tokens=4,
    reasoning_tokens=2,
    cached_tokens=3,
    first_token_s=1,
    decode_s=1,
)
ADD = {"type": "function", "name": "add"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Sent:
    """An answer as a client reads it, streamed and whole."""

    def __init__(self, **fields: Any) -> None:
        data = json.dumps({"input": "Hi", **fields}).encode()
        request = parse_response(data, SERVED, ResponseStore(0, 0), "")
        self.kept: list[ResponseObject] = []
        self.events: list[dict[str, Any]] = []
        self._answer = ResponseAnswer(
            META, request, SERVED, is_kept=True, keep=lambda whole: self.kept.append(whole)
        )

    def push(self, *chunks: GenerationChunk) -> "Sent":
        for chunk in chunks:
            self._add(self._answer.push(chunk))
        return self

    def fail(self, error: ApiError) -> "Sent":
        self._add([self._answer.failed(error)])
        return self

    def _add(self, pieces: Iterable[msgspec.Struct]) -> None:
        for piece in pieces:
            sent = plain(piece)
            EVENT.validate_python(sent)
            assert sent["sequence_number"] == len(self.events)
            self.events.append(sent)

    @property
    def whole(self) -> dict[str, Any]:
        """The whole answer, which is also in the last event, whose items are in those before."""
        whole = plain(self._answer.whole())
        Response.model_validate(whole)
        last = self.events[-1]
        assert last["response"] == whole
        assert last["type"] == f"response.{whole['status']}"
        done = [event["item"] for event in self.named("response.output_item.done")]
        assert whole["output"] == done
        return whole

    @property
    def types(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.events]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == name]

    def texts(self, name: str) -> list[str]:
        return [event["delta"] for event in self.named(f"response.{name}")]


def plain(sent: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.json.decode(msgspec.json.encode(sent))
    assert isinstance(fields, dict)
    return fields


def text(piece: str, **fields: Any) -> GenerationChunk:
    return GenerationChunk(text=piece, **fields)


def end(reason: FinishReason = FinishReason.STOP, piece: str = "") -> GenerationChunk:
    return GenerationChunk(text=piece, finish_reason=reason, usage=USAGE)


def token(data: bytes) -> TokenLogprob:
    return TokenLogprob(token=0, data=data, logprob=-0.5, top=((data, -0.5), (b"x", -2.0)))


def test_text_and_its_events() -> None:
    sent = Sent().push(GenerationChunk(), text("Hel"), text("lo"), end())
    assert sent.types == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert sent.events[0]["response"]["status"] == "in_progress"
    assert sent.events[0]["response"]["output"] == []
    assert sent.named("response.output_item.added")[0]["item"]["content"] == []
    assert sent.texts("output_text.delta") == ["Hel", "lo"]
    (message,) = sent.whole["output"]
    assert (message["type"], message["status"]) == ("message", "completed")
    assert message["content"][0]["text"] == "Hello"


def test_usage() -> None:
    assert Sent().push(end()).whole["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 13,
    }


def test_fields_of_the_request_come_back() -> None:
    fields = {
        "instructions": "Be brief.",
        "max_output_tokens": 7,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": None, "summary": "auto"},
        "temperature": 0.5,
        "text": {
            "format": {
                "type": "json_schema",
                "name": "a",
                "schema": {"type": "null"},
                "description": None,
                "strict": True,
            },
            "verbosity": "medium",
        },
        "top_logprobs": 2,
        "top_p": 0.9,
    }
    whole = Sent(**fields).push(end()).whole
    assert {name: whole[name] for name in fields} == fields


def test_defaults_come_back() -> None:
    whole = Sent().push(end()).whole
    assert whole["tool_choice"] == "auto"
    assert whole["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert (whole["temperature"], whole["top_p"], whole["truncation"]) == (0.0, 1.0, "disabled")
    assert (whole["tools"], whole["metadata"], whole["instructions"]) == ([], {}, None)


def test_full_answer_is_incomplete() -> None:
    sent = Sent().push(text("Hel"), end(FinishReason.LENGTH))
    assert sent.whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert sent.whole["output"][0]["status"] == "incomplete"
    assert sent.types[-1] == "incomplete"


def test_answer_without_text_is_an_empty_message() -> None:
    (message,) = Sent().push(end()).whole["output"]
    assert message["content"][0]["text"] == ""


def test_calls_and_their_events() -> None:
    call = '{"name": "add", "arguments": {"a": 1}}'
    answer = f"Well.<tool_call>\n{call}\n</tool_call>\n<tool_call>\n{call}\n</tool_call>"
    sent = Sent(tools=[ADD]).push(*(text(piece) for piece in answer), end())
    message, first, second = sent.whole["output"]
    assert message["content"][0]["text"] == "Well."
    for called in (first, second):
        assert (called["type"], called["name"], called["status"]) == (
            "function_call",
            "add",
            "completed",
        )
        assert called["arguments"] == '{"a": 1}'
        pieces = [
            event["delta"]
            for event in sent.named("response.function_call_arguments.delta")
            if event["item_id"] == called["id"]
        ]
        assert "".join(pieces) == called["arguments"]
    assert len({message["id"], first["id"], second["id"]}) == 3
    assert first["call_id"] != second["call_id"]
    added = sent.named("response.output_item.added")
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert [event["item"]["status"] for event in added] == ["in_progress"] * 3


def test_cut_call_is_incomplete() -> None:
    start = '<tool_call>\n{"name": "add", "arguments": {"a"'
    (called,) = Sent(tools=[ADD]).push(text(start), end(FinishReason.LENGTH)).whole["output"]
    assert (called["status"], called["arguments"]) == ("incomplete", '{"a"')


def test_thoughts_are_an_item_before_the_answer() -> None:
    sent = Sent().push(
        GenerationChunk(thoughts="Hm", tokens=1),
        GenerationChunk(thoughts=".", tokens=2),
        text("Yes", tokens=4),
        end(),
    )
    assert sent.types[2:9] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    thoughts, message = sent.whole["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert thoughts["summary"] == []
    assert message["content"][0]["text"] == "Yes"


def test_thoughts_are_the_summary_where_one_is_requested() -> None:
    sent = Sent(reasoning={"summary": "auto"}).push(
        GenerationChunk(thoughts="Hm"), text("Yes"), end()
    )
    assert sent.types[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    thoughts, _ = sent.whole["output"]
    assert thoughts["summary"] == [{"type": "summary_text", "text": "Hm"}]
    assert thoughts["content"] == []


def test_log_probabilities_are_those_of_the_text() -> None:
    sent = Sent(top_logprobs=2).push(
        GenerationChunk(thoughts="Hm", logprobs=(token(b"Hm"),)),
        text("A", logprobs=(token(b"A"),)),
        text("", logprobs=(token(b"\xc3"),)),
        text("ä", logprobs=(token(b"\xa4"),)),
        end(),
    )
    *_, message = sent.whole["output"]
    logprobs = message["content"][0]["logprobs"]
    assert [entry["bytes"] for entry in logprobs] == [[65], [0xC3], [0xA4]]
    assert logprobs[0]["top_logprobs"][1] == {"token": "x", "logprob": -2.0, "bytes": [120]}
    deltas = sent.named("response.output_text.delta")
    assert [entry for event in deltas for entry in event["logprobs"]] == logprobs
    assert sent.named("response.output_text.done")[0]["logprobs"] == logprobs


def test_failure_is_the_last_event() -> None:
    sent = Sent().push(text("Hel")).fail(ApiError("it broke", status=500))
    last = sent.events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert sent.kept == []


@pytest.mark.parametrize(
    ("reason", "count"),
    [(FinishReason.STOP, 1), (FinishReason.LENGTH, 1), (FinishReason.CANCELLED, 0)],
)
def test_whole_answers_are_kept(reason: FinishReason, count: int) -> None:
    assert len(Sent().push(text("Hi"), end(reason)).kept) == count
