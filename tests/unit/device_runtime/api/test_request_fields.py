"""Each field of a request has an effect, or is refused."""

import json
from typing import Any

import msgspec
import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.chat_types import ChatBody
from device_runtime.api.completion_requests import parse_completion
from device_runtime.api.completion_types import CompletionBody
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.tools.dialect import Dialect

THOUGHTS = Reasoning(
    begin="<think>",
    end="</think>",
    begin_tokens=(7,),
    end_tokens=(8,),
    opened=False,
    argument="enable_thinking",
    on=True,
    off=False,
)
SERVED = ServedModel(
    model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",), reasoning=THOUGHTS
)
WEATHER = {"type": "function", "function": {"name": "weather"}}


def read(body: type[ChatBody | CompletionBody], fields: dict[str, Any]) -> ParsedRequest:
    if body is ChatBody:
        return parse_chat(json.dumps({"messages": HELLO, **fields}).encode(), SERVED)
    return parse_completion(json.dumps({"prompt": "Once", **fields}).encode(), SERVED)


HELLO = [{"role": "user", "content": "Hello"}]
ANSWERED = [*HELLO, {"role": "assistant", "content": "Good"}]
OTHER_VALUES: dict[str, dict[str, Any]] = {
    "continue_final_message": {"messages": ANSWERED, "continue_final_message": True},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": False}},
    "enable_thinking": {"enable_thinking": False},
    "echo": {"echo": True},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logit_bias": {"logit_bias": {"7": 3}},
    "logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_completion_tokens": 7},
    "max_tokens": {"max_tokens": 7},
    "messages": {"messages": [{"role": "user", "content": "Bye"}]},
    "min_p": {"min_p": 0.05},
    "model": {"model": "tiny:a"},
    "n": {"n": 3},
    "num_beams": {"num_beams": 2},
    "parallel_tool_calls": {"tools": [WEATHER], "parallel_tool_calls": False},
    "presence_penalty": {"presence_penalty": 0.5},
    "prompt": {"prompt": "Twice"},
    "reasoning_effort": {"reasoning_effort": "none"},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "response_format": {"response_format": {"type": "json_object"}},
    "seed": {"seed": 7},
    "stop": {"stop": "a"},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "temperature": {"temperature": 0.5},
    "thinking_budget_tokens": {"thinking_budget_tokens": 9},
    "tool_choice": {"tools": [WEATHER], "tool_choice": "none"},
    "tools": {"tools": [WEATHER]},
    "top_k": {"top_k": 40},
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "top_p": {"top_p": 0.9},
}
"""For each field of a request, a request in which it matters."""


@pytest.mark.parametrize("body", [ChatBody, CompletionBody])
def test_no_field_is_accepted_and_then_ignored(body: type[ChatBody | CompletionBody]) -> None:
    for field in msgspec.structs.fields(body):
        if field.name == "add_generation_prompt":
            continue  # It only repeats what continue_final_message says, and must not deny it.
        fields = OTHER_VALUES[field.name]
        if body is CompletionBody and field.name == "logprobs":
            fields = {"logprobs": 2}
        without = {name: value for name, value in fields.items() if name != field.name}
        assert read(body, fields) != read(body, without), field.name
