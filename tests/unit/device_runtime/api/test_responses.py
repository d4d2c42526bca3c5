"""OpenAI's answers, written, whole and in pieces."""

import json
from typing import Any

import msgspec
import openai.types.chat
import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.completion_requests import parse_completion
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.response_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    ResponseMeta,
)
from device_runtime.api.responses import Answer, ChatAnswer, CompletionAnswer
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, TokenLogprob, Usage
from device_runtime.tools.dialect import Dialect

META = ResponseMeta(id="1", created=5, model="tiny", system_fingerprint="fp")
DIALECT = Dialect.of("")
SERVED = ServedModel(model="tiny", dialect=DIALECT, max_tokens=64)
USAGE = Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=4, first_token_s=1, decode_s=1)
TOOL = {"type": "function", "function": {"name": "add"}}


class Sent:
    """An answer's objects as a client reads them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def push(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        return [plain(piece) for piece in self._answer.push(chunk)]

    def whole(self) -> dict[str, Any]:
        return plain(self._answer.whole())


def plain(sent: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.json.decode(msgspec.json.encode(sent))
    assert isinstance(fields, dict)
    return fields


def parsed(**fields: Any) -> ParsedRequest:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_chat(json.dumps(body).encode(), SERVED)


def chat(request: ParsedRequest) -> Sent:
    return Sent(ChatAnswer(META, request, SERVED))


def completion(**fields: Any) -> Sent:
    body = {"prompt": "Once", **fields}
    request = parse_completion(json.dumps(body).encode(), SERVED)
    return Sent(CompletionAnswer(META, request, SERVED))


def token(text: str) -> TokenLogprob:
    top = ((text.encode(), -0.5), (b"x", -2))
    return TokenLogprob(token=0, data=text.encode(), logprob=-0.5, top=top, characters=len(text))


def end(index: int = 0, *, last: bool = True, reason: str = "stop") -> GenerationChunk:
    return GenerationChunk(
        index=index, finish_reason=FinishReason(reason), usage=USAGE if last else None
    )


def deltas(pieces: list[dict[str, Any]]) -> list[Any]:
    return [piece["choices"][0]["delta"] for piece in pieces]


def test_whole_chat_answer() -> None:
    answer = chat(parsed())
    for chunk in (GenerationChunk(text="Hel"), GenerationChunk(text="lo"), end(reason="length")):
        answer.push(chunk)
    assert answer.whole() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "tiny",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_chat_answer_in_pieces() -> None:
    answer = chat(parsed())
    pieces = answer.push(GenerationChunk(text="Hi")) + answer.push(end())
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert deltas(pieces) == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, "stop"]
    assert all("usage" not in piece for piece in pieces)


def test_thoughts_are_apart_from_the_answer() -> None:
    answer = chat(parsed())
    pieces = []
    for chunk in (GenerationChunk(thoughts="Hm"), GenerationChunk(thoughts=".", text="Yes"), end()):
        pieces += answer.push(chunk)
    assert deltas(pieces) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"content": "Yes"},
        {},
    ]
    message = answer.whole()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes")


def test_empty_fields_of_a_piece_are_null_and_its_usage_is_absent() -> None:
    answer = chat(parsed(stream=True))
    *_, piece = answer.push(GenerationChunk(text="Hi"))
    assert piece == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "tiny",
        "system_fingerprint": "fp",
        "choices": [
            {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}
        ],
    }


def test_usage_is_a_piece_of_its_own_if_asked_for() -> None:
    answer = chat(parsed(stream=True, stream_options={"include_usage": True}))
    *pieces, totals = answer.push(GenerationChunk(text="Hi")) + answer.push(end())
    assert all(piece["usage"] is None for piece in pieces)
    assert totals["choices"] == []
    assert totals["usage"]["total_tokens"] == 12


def test_several_answers_have_their_numbers() -> None:
    answer = chat(parsed(n=2))
    pieces = [
        *answer.push(GenerationChunk(text="a")),
        *answer.push(end(last=False)),
        *answer.push(GenerationChunk(index=1, text="b")),
        *answer.push(end(1)),
    ]
    assert [piece["choices"][0]["index"] for piece in pieces] == [0, 0, 0, 1, 1, 1]
    choices = answer.whole()["choices"]
    assert [(each["index"], each["message"]["content"]) for each in choices] == [(0, "a"), (1, "b")]


def test_log_probabilities_come_with_their_tokens() -> None:
    answer = chat(parsed(logprobs=True, top_logprobs=2))
    pieces = [
        *answer.push(GenerationChunk(text="", logprobs=(token("é"),))),
        *answer.push(GenerationChunk(text="é!", logprobs=(token("!"),))),
        *answer.push(end()),
    ]
    shown = [piece["choices"][0]["logprobs"] for piece in pieces]
    assert [[each["token"] for each in logprobs["content"]] for logprobs in shown if logprobs] == [
        ["é"],
        ["!"],
    ]
    content = answer.whole()["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "é",
        "logprob": -0.5,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [
            {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]},
            {"token": "x", "logprob": -2, "bytes": [0x78]},
        ],
    }


def test_part_of_a_character_has_its_bytes() -> None:
    answer = chat(parsed(logprobs=True))
    answer.push(GenerationChunk(logprobs=(TokenLogprob(token=0, data=b"\xc3", logprob=-1),)))
    answer.push(end())
    (shown,) = answer.whole()["choices"][0]["logprobs"]["content"]
    assert (shown["token"], shown["bytes"]) == ("\ufffd", [0xC3])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tool_calls_whole_and_in_pieces(size: int) -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    answer = chat(parsed(tools=[TOOL], tool_choice="required"))
    pieces = []
    for start in range(0, len(text), size):
        pieces += answer.push(GenerationChunk(text=text[start : start + size]))
    pieces += answer.push(end())
    calls = [delta["tool_calls"][0] for delta in deltas(pieces) if "tool_calls" in delta]
    assert calls[0]["function"]["name"] == "add"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    assert pieces[-1]["choices"][0]["finish_reason"] == "tool_calls"
    choice = answer.whole()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["id"] == calls[0]["id"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_text_of_a_call_within_json_is_no_call() -> None:
    text = '{"note": "<tool_call>\\n{\\"name\\": <tool_call>\n{"name": "add", "arguments": {}}"}'
    answer = chat(parsed(tools=[TOOL], response_format={"type": "json_object"}))
    for chunk in (GenerationChunk(text=text), end()):
        answer.push(chunk)
    (choice,) = answer.whole()["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_completion_whole_and_in_pieces() -> None:
    answer = completion(echo=True)
    pieces = [
        *answer.push(GenerationChunk(text="Once")),
        *answer.push(GenerationChunk(text=" upon")),
        *answer.push(end()),
    ]
    assert [piece["choices"][0]["text"] for piece in pieces] == ["Once", " upon", ""]
    whole = answer.whole()
    assert (whole["object"], whole["id"]) == ("text_completion", "cmpl-1")
    assert whole["choices"][0] == {
        "index": 0,
        "text": "Once upon",
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert whole["usage"]["total_tokens"] == 12


def test_log_probabilities_of_a_completion() -> None:
    answer = completion(logprobs=2)
    answer.push(GenerationChunk(text="é", logprobs=(token("é"),)))
    answer.push(GenerationChunk(text="!", logprobs=(token("!"),)))
    answer.push(end())
    assert answer.whole()["choices"][0]["logprobs"] == {
        "tokens": ["é", "!"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"é": -0.5, "x": -2}, {"!": -0.5, "x": -2}],
        "text_offset": [0, 1],
    }


def test_log_probabilities_of_an_echo() -> None:
    answer = completion(logprobs=2, echo=True)
    begin = TokenLogprob(token=1, data=b"<s>", logprob=None)
    cut = TokenLogprob(token=2, data=b"\xc3", logprob=-1, top=((b"\xc3", -1), (b"\xc4", -2)))
    answer.push(GenerationChunk(text="aé", logprobs=(begin, token("a"), cut, token("é"))))
    answer.push(end())
    assert answer.whole()["choices"][0]["logprobs"] == {
        "tokens": ["<s>", "a", "\ufffd", "é"],
        "token_logprobs": [None, -0.5, -1, -0.5],
        "top_logprobs": [None, {"a": -0.5, "x": -2}, {"\ufffd": -1}, {"é": -0.5, "x": -2}],
        "text_offset": [0, 0, 1, 1],
    }


def same(shown: dict[str, Any], kind: type[msgspec.Struct]) -> bool:
    """Whether an object is of this kind, with all its fields and no other."""
    return bool(msgspec.to_builtins(msgspec.convert(shown, kind)) == shown)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"tools": [TOOL], "tool_choice": "required"},
    ],
)
def test_chat_answers_are_what_the_document_says(fields: dict[str, Any]) -> None:
    answer = chat(parsed(**fields))
    text = (
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
        if "tools" in fields
        else "Hi"
    )
    pieces = []
    for index in range(fields.get("n", 1)):
        logprobs = (token("Hi"),) if "logprobs" in fields else ()
        pieces += answer.push(GenerationChunk(index=index, text=text, logprobs=logprobs))
        pieces += answer.push(end(index, last=index == fields.get("n", 1) - 1))
    assert all(same(piece, ChatCompletionChunk) for piece in pieces)
    assert same(answer.whole(), ChatCompletion)
    # The client's own types are made from OpenAI's published specification.
    for piece in pieces:
        openai.types.chat.ChatCompletionChunk.model_validate(piece)
    openai.types.chat.ChatCompletion.model_validate(answer.whole())
    assert ("tool_calls" in answer.whole()["choices"][0]["message"]) == ("tools" in fields)


@pytest.mark.parametrize("fields", [{}, {"logprobs": 1}, {"echo": True}])
def test_completions_are_what_the_document_says(fields: dict[str, Any]) -> None:
    answer = completion(**fields)
    logprobs = (token("Hi"),) if "logprobs" in fields else ()
    pieces = answer.push(GenerationChunk(text="Hi", logprobs=logprobs)) + answer.push(end())
    assert all(same(piece, Completion) for piece in pieces)
    assert same(answer.whole(), Completion)
    openai.types.Completion.model_validate(answer.whole())
