"""Ollama's answers, written, whole and in parts that its client reads."""

import json
from typing import Any

import msgspec
import ollama

from device_runtime.api.ollama.requests import parse_ollama_chat, parse_ollama_generate
from device_runtime.api.ollama.responses import (
    OllamaAnswer,
    OllamaChatAnswer,
    OllamaGenerateAnswer,
)
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, TokenLogprob, Usage
from device_runtime.tools.dialect import Dialect

META = ResponseMeta(id="1", created=5, model="tiny:latest", system_fingerprint="fp")
SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
USAGE = Usage(
    prompt_tokens=9, completion_tokens=5, cached_tokens=4, first_token_s=0.25, decode_s=1.5
)
TOOL = {"type": "function", "function": {"name": "add"}}
TIMES = ("created_at", "total_duration")


def chat(**fields: Any) -> OllamaAnswer:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return OllamaChatAnswer(META, parse_ollama_chat(json.dumps(body).encode(), SERVED), SERVED)


def generate(**fields: Any) -> OllamaAnswer:
    body = {"model": "tiny", "prompt": "Hi", **fields}
    parsed = parse_ollama_generate(json.dumps(body).encode(), SERVED)
    return OllamaGenerateAnswer(META, parsed, SERVED)


def pushed(
    answer: OllamaAnswer, *chunks: GenerationChunk
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The parts of an answer, and the whole; without times, which the client's types accept."""
    sent = [part for chunk in (GenerationChunk(), *chunks) for part in answer.push(chunk)]
    decoded = [msgspec.json.decode(msgspec.json.encode(part)) for part in (*sent, answer.whole())]
    kind = ollama.ChatResponse if "message" in decoded[0] else ollama.GenerateResponse
    for part in decoded:
        kind.model_validate(part)
    *parts, whole = [
        {name: value for name, value in part.items() if name not in TIMES} for part in decoded
    ]
    return parts, whole


def end(reason: str = "stop") -> GenerationChunk:
    return GenerationChunk(finish_reason=FinishReason(reason), usage=USAGE)


def test_chat_whole_and_in_parts() -> None:
    chunks = (GenerationChunk(text="Hel"), GenerationChunk(text="lo"), end("length"))
    parts, whole = pushed(chat(), *chunks)
    done = {
        "model": "tiny:latest",
        "done": True,
        "done_reason": "length",
        "load_duration": 0,
        "prompt_eval_count": 9,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 5,
        "eval_duration": 1_500_000_000,
    }
    running = {"model": "tiny:latest", "done": False}
    assert parts == [
        running | {"message": {"role": "assistant", "content": "Hel"}},
        running | {"message": {"role": "assistant", "content": "lo"}},
        done | {"message": {"role": "assistant", "content": ""}},
    ]
    assert whole == done | {"message": {"role": "assistant", "content": "Hello"}}


def test_generate_whole_and_in_parts() -> None:
    chunks = (GenerationChunk(thoughts="Hm"), GenerationChunk(text="Hi"), end())
    parts, whole = pushed(generate(), *chunks)
    assert [(part["response"], part.get("thinking")) for part in parts] == [
        ("", "Hm"),
        ("Hi", None),
        ("", None),
    ]
    assert (whole["response"], whole["thinking"], whole["done_reason"]) == ("Hi", "Hm", "stop")


def test_total_time_is_that_since_the_request() -> None:
    answer = chat()
    answer.push(end())
    total = msgspec.to_builtins(answer.whole())["total_duration"]
    assert 0 < total < 60e9


def test_calls_are_sent_whole() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": '
    rest = "1}}\n</tool_call>\n" + call + "2}}\n</tool_call>"
    parts, whole = pushed(
        chat(tools=[TOOL]),
        GenerationChunk(text="So: " + call),
        GenerationChunk(text=rest),
        end(),
    )
    calls = [call["function"] for part in parts for call in part["message"].get("tool_calls", ())]
    assert calls == [
        {"index": 0, "name": "add", "arguments": {"a": 1}},
        {"index": 1, "name": "add", "arguments": {"a": 2}},
    ]
    assert [call["function"] for call in whole["message"]["tool_calls"]] == calls
    assert whole["message"]["content"] == "So:"


def test_call_that_is_cut_off_is_left_out() -> None:
    cut = '<tool_call>\n{"name": "add", "arguments": {"a": '
    parts, whole = pushed(chat(tools=[TOOL]), GenerationChunk(text=cut), end("length"))
    assert all("tool_calls" not in part["message"] for part in (*parts, whole))
    assert whole["done_reason"] == "length"


def test_log_probabilities() -> None:
    token = TokenLogprob(token=0, data=b"Hi", logprob=-0.5, top=((b"Hi", -0.5),))
    parts, whole = pushed(
        chat(logprobs=True, top_logprobs=1), GenerationChunk(text="Hi", logprobs=(token,)), end()
    )
    likely = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    assert parts[0]["logprobs"] == [likely | {"top_logprobs": [likely]}]
    assert whole["logprobs"] == parts[0]["logprobs"]
    assert "logprobs" not in parts[-1]


def test_loading_is_all_that_is_said() -> None:
    parts, whole = pushed(chat(messages=[]), end())
    message = {"role": "assistant", "content": ""}
    expected = {"model": "tiny:latest", "done": True, "done_reason": "load", "message": message}
    assert parts == [expected]
    assert whole == expected
