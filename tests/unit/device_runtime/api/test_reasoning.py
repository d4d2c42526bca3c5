"""What requests say of thinking, for models that think in different ways."""

import json
from typing import Any

import msgspec
import pytest

from device_runtime.api.anthropic.requests import parse_message
from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.ollama.requests import parse_ollama_chat
from device_runtime.api.openai_responses.requests import parse_response
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.inference.engine import GenerationRequest
from device_runtime.tools.dialect import Dialect

HELLO = [{"role": "user", "content": "Hello"}]
QWEN3 = Reasoning(
    begin="<think>",
    end="</think>",
    begin_tokens=(7,),
    end_tokens=(8,),
    opened=False,
    argument="enable_thinking",
    on=True,
    off=False,
)
GEMMA4 = msgspec.structs.replace(QWEN3, default=False)
ALWAYS = msgspec.structs.replace(QWEN3, argument=None, on=None, off=None)
EFFORTS = msgspec.structs.replace(QWEN3, argument="reasoning_effort", on="high", off=None)
TWO_EFFORTS = msgspec.structs.replace(EFFORTS, off="none", default=False)


def served(reasoning: Reasoning | None) -> ServedModel:
    return ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, reasoning=reasoning)


def parse(reasoning: Reasoning | None, **fields: Any) -> ParsedRequest:
    return parse_chat(json.dumps({"messages": HELLO, **fields}).encode(), served(reasoning))


@pytest.mark.parametrize(
    ("reasoning", "fields", "arguments", "expected"),
    [
        (QWEN3, {}, {}, True),
        (QWEN3, {"reasoning_effort": "none"}, {"enable_thinking": False}, False),
        (QWEN3, {"reasoning_effort": "low"}, {"enable_thinking": True}, True),
        (QWEN3, {"enable_thinking": False}, {"enable_thinking": False}, False),
        (
            QWEN3,
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
            0,
        ),
        (
            QWEN3,
            {"enable_thinking": True, "reasoning_effort": "high"},
            {"enable_thinking": True},
            1,
        ),
        (GEMMA4, {}, {}, False),
        (GEMMA4, {"reasoning_effort": "minimal"}, {"enable_thinking": True}, True),
        (ALWAYS, {}, {}, True),
        (ALWAYS, {"reasoning_effort": "high"}, {}, True),
        (ALWAYS, {"enable_thinking": True}, {}, True),
        (EFFORTS, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, True),
        (EFFORTS, {"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}, True),
        (EFFORTS, {"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}, True),
        (EFFORTS, {"enable_thinking": True}, {"reasoning_effort": "high"}, True),
        (TWO_EFFORTS, {"reasoning_effort": "none"}, {"reasoning_effort": "none"}, False),
        (TWO_EFFORTS, {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, True),
    ],
)
def test_effort_becomes_the_argument_of_the_template(
    reasoning: Reasoning, fields: dict[str, Any], arguments: dict[str, Any], expected: bool
) -> None:
    generation = parse(reasoning, **fields).generation
    assert generation.arguments == arguments
    assert generation.thinking is not None
    assert generation.thinking.expected == expected


@pytest.mark.parametrize("fields", [{"reasoning_effort": "none"}, {"enable_thinking": False}])
def test_no_thinking_is_nothing_to_a_model_that_does_not_think(fields: dict[str, Any]) -> None:
    assert parse(None, **fields) == parse(None)


@pytest.mark.parametrize(
    ("reasoning", "fields", "message", "param"),
    [
        (None, {"reasoning_effort": "low"}, "does not think", "reasoning_effort"),
        (None, {"enable_thinking": True}, "does not think", "enable_thinking"),
        (ALWAYS, {"reasoning_effort": "none"}, "always thinks", "reasoning_effort"),
        (ALWAYS, {"enable_thinking": False}, "always thinks", "enable_thinking"),
        (EFFORTS, {"reasoning_effort": "none"}, "always thinks", "reasoning_effort"),
        (
            QWEN3,
            {"reasoning_effort": "none", "enable_thinking": True},
            "contradicts reasoning_effort",
            "enable_thinking",
        ),
        (
            QWEN3,
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            "contradicts chat_template_kwargs.enable_thinking",
            "reasoning_effort",
        ),
        (QWEN3, {"reasoning_effort": "most"}, "Invalid enum value", "reasoning_effort"),
        (QWEN3, {"enable_thinking": "no"}, "Expected `bool", "enable_thinking"),
        (QWEN3, {"thinking_budget_tokens": -1}, ">= 0", "thinking_budget_tokens"),
        (QWEN3, {"thinking_budget_tokens": 5, "num_beams": 2}, "num_beams cannot", "num_beams"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(
    reasoning: Reasoning | None, fields: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(ApiError, match=message) as error:
        parse(reasoning, **fields)
    assert error.value.body.error.param == param


def test_budget_reaches_the_engine() -> None:
    thinking = parse(QWEN3, thinking_budget_tokens=0).generation.thinking
    assert thinking is not None
    assert (thinking.budget, thinking.end_tokens) == (0, (8,))
    assert parse(None, thinking_budget_tokens=9) == parse(None)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_earlier_thoughts_reach_the_template(field: str) -> None:
    answer = {"role": "assistant", "content": "Hi", field: "A greeting."}
    generation = parse(QWEN3, messages=[*HELLO, answer, *HELLO]).generation
    assert isinstance(generation.prompt, tuple)
    assert [turn.reasoning_content for turn in generation.prompt] == ["", "A greeting.", ""]


def test_earlier_thoughts_stay_with_calls_of_tools() -> None:
    function = {"name": "weather", "arguments": "{}"}
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "reasoning_content": "I call.",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "Rain"},
    ]
    generation = parse(QWEN3, messages=messages).generation
    assert isinstance(generation.prompt, tuple)
    assert generation.prompt[1].reasoning_content == "I call."


def test_thoughts_of_others_are_refused() -> None:
    messages = [{"role": "user", "content": "Hi", "reasoning_content": "Hm"}]
    with pytest.raises(ApiError, match="only with the role assistant") as error:
        parse(QWEN3, messages=messages)
    assert error.value.body.error.param == "messages[0].reasoning_content"


def anthropic(**fields: Any) -> GenerationRequest:
    body = {"model": "tiny", "max_tokens": 9, "messages": HELLO, **fields}
    return parse_message(json.dumps(body).encode(), served(QWEN3)).generation


def ollama(**fields: Any) -> GenerationRequest:
    body = {"model": "tiny", "messages": HELLO, **fields}
    return parse_ollama_chat(json.dumps(body).encode(), served(QWEN3)).generation


def responses(**fields: Any) -> GenerationRequest:
    data = json.dumps({"input": HELLO, **fields}).encode()
    return parse_response(data, served(QWEN3), ResponseStore(0, 0), "").parsed.generation


@pytest.mark.parametrize(
    ("generation", "thinks"),
    [
        (anthropic(thinking={"type": "enabled", "budget_tokens": 5}), True),
        (anthropic(thinking={"type": "disabled"}), False),
        (anthropic(thinking={"type": "adaptive"}), None),
        (ollama(think=True), True),
        (ollama(think="low"), True),
        (ollama(think=False), False),
        (responses(reasoning={"effort": "high"}), True),
        (responses(reasoning={"effort": "none"}), False),
    ],
)
def test_other_apis_switch_thinking(generation: GenerationRequest, thinks: bool | None) -> None:
    assert generation.arguments == ({} if thinks is None else {"enable_thinking": thinks})


def test_budget_of_anthropics_api_is_kept() -> None:
    thinking = anthropic(thinking={"type": "enabled", "budget_tokens": 5}).thinking
    assert thinking is not None
    assert thinking.budget == 5


@pytest.mark.parametrize(
    "generation",
    [
        anthropic(
            messages=[
                *HELLO,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm", "signature": ""},
                        {"type": "text", "text": "Hi"},
                    ],
                },
                *HELLO,
            ]
        ),
        ollama(messages=[*HELLO, {"role": "assistant", "content": "Hi", "thinking": "Hm"}, *HELLO]),
        responses(
            input=[
                *HELLO,
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
                {"role": "assistant", "content": "Hi"},
                *HELLO,
            ]
        ),
    ],
)
def test_earlier_thoughts_of_other_apis_reach_the_template(generation: GenerationRequest) -> None:
    assert not isinstance(generation.prompt, str)
    assert [turn.reasoning_content for turn in generation.prompt] == ["", "Hm", ""]


def test_thoughts_without_an_answer_after_them_are_left_out() -> None:
    item = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "a"}],
    }
    generation = responses(input=[item, *HELLO])
    assert not isinstance(generation.prompt, str)
    assert [turn.reasoning_content for turn in generation.prompt] == [""]
