"""Ollama's requests, translated or refused."""

import json
from typing import Any

import msgspec
import ollama
import pytest
from ollama import _types as client

from device_runtime.api.errors import ApiError
from device_runtime.api.ollama import request_types as bodies
from device_runtime.api.ollama.requests import (
    LONGEST,
    OllamaRequest,
    parse_ollama_chat,
    parse_ollama_generate,
)
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.tools.dialect import Dialect
from tests.support import tool_templates

SERVED = ServedModel(
    model="tiny", dialect=Dialect.of(tool_templates.HERMES), max_tokens=64, adapters=("a",)
)
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


def chat(**fields: Any) -> OllamaRequest:
    body = {"model": "tiny", "messages": [USER], **fields}
    return parse_ollama_chat(json.dumps(body).encode(), SERVED)


def generate(**fields: Any) -> OllamaRequest:
    body = {"model": "tiny", "prompt": "Hi", **fields}
    return parse_ollama_generate(json.dumps(body).encode(), SERVED)


def called(*names: str, **fields: Any) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}, **fields} for name in names]
    return {"role": "assistant", "tool_calls": calls}


def test_options() -> None:
    options = {
        "num_predict": 7,
        "stop": ["a"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 4,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "num_ctx": 999_999,
        "num_gpu": 1,
        "mirostat": 0,
    }
    for generation in (chat(options=options).generation, generate(options=options).generation):
        assert (generation.max_tokens, generation.stop, generation.seed) == (7, ("a",), 4)
        assert (generation.temperature, generation.top_p, generation.top_k) == (0.5, 0.9, 3)
        assert (generation.min_p, generation.repetition_penalty) == (0.1, 1.1)
        assert (generation.presence_penalty, generation.frequency_penalty) == (0.2, 0.3)
    assert chat().generation.max_tokens == 64


@pytest.mark.parametrize("number", [0, -1, -2])
def test_answer_without_a_limit(number: int) -> None:
    assert chat(options={"num_predict": number}).generation.max_tokens == LONGEST


def test_answers_are_streamed_unless_told_otherwise() -> None:
    assert chat().stream
    assert generate().stream
    assert not chat(stream=False).stream


@pytest.mark.parametrize(
    ("name", "adapter"),
    [("tiny", ""), ("tiny:latest", ""), ("tiny:a", "a"), ("tiny:a:latest", "a")],
)
def test_names_of_models(name: str, adapter: str) -> None:
    request = chat(model=name)
    assert (request.model, request.generation.adapter) == (name, adapter)


def test_form_of_the_answer() -> None:
    for form in ("json", SCHEMA):
        assert chat(format=form).generation.guidance is not None
        assert generate(format=form).generation.guidance is not None
    assert chat(format="").generation.guidance is None
    assert chat(format=None).generation.guidance is None


def test_prompt_of_generate() -> None:
    turns = generate(system="Be brief.").generation.prompt
    assert isinstance(turns, tuple)
    assert [turn.role for turn in turns] == ["system", "user"]
    raw = generate(raw=True, prompt="Once", logprobs=True, top_logprobs=2, system="", think=False)
    assert (raw.generation.prompt, raw.generation.logprobs) == ("Once", 2)


@pytest.mark.parametrize(
    ("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload")]
)
def test_request_without_a_prompt_loads_the_model(keep_alive: Any, reason: str) -> None:
    for request in (
        chat(messages=[], keep_alive=keep_alive),
        generate(prompt="", keep_alive=keep_alive),
    ):
        assert request.generation.counts
        assert request.done_reason == reason
    assert chat().done_reason is None


def test_request_without_a_prompt_is_checked_all_the_same() -> None:
    with pytest.raises(ApiError, match=r"tools\[0\].function.parameters must be a JSON schema"):
        chat(messages=[], tools=[{"function": {"name": "f", "parameters": {"a": 1}}}])


def test_results_belong_to_calls_by_id_by_name_or_by_order() -> None:
    messages = [
        USER,
        called("add", "sub", "add"),
        {"role": "tool", "content": "1", "tool_name": "sub"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
        called("mul", id="id-1"),
        {"role": "tool", "content": "4", "tool_call_id": "id-1"},
    ]
    turns = chat(messages=messages, tools=[TOOL]).generation.prompt
    assert isinstance(turns, tuple)
    results = [(turn.name, turn.content) for turn in turns if turn.role == "tool"]
    assert results == [("sub", "1"), ("add", "2"), ("add", "3"), ("mul", "4")]
    ids = [turn.tool_call_id for turn in turns if turn.role == "tool"]
    assert ids == ["call_1_1", "call_1_0", "call_1_2", "id-1"]


def test_answer_that_has_begun_is_continued() -> None:
    begun = [USER, {"role": "assistant", "content": "The answer is ("}]
    assert chat(messages=begun).generation.continues
    assert not chat().generation.continues
    assert not chat(messages=[USER, called("add")]).generation.continues
    with pytest.raises(ApiError, match=r"^messages\[1\] cannot be combined with response_format"):
        chat(messages=begun, format="json")


def test_thoughts_of_earlier_answers_go_to_the_template() -> None:
    messages = [USER, {"role": "assistant", "content": "Yes", "thinking": "Hm"}, USER]
    turns = chat(messages=messages).generation.prompt
    assert not isinstance(turns, str)
    assert [turn.reasoning_content for turn in turns] == ["", "Hm", ""]


@pytest.mark.parametrize(
    ("off", "think", "arguments"),
    [
        (False, None, {}),
        (False, True, {"enable_thinking": True}),
        (False, "low", {"enable_thinking": True}),
        (False, False, {"enable_thinking": False}),
        (None, False, {}),
    ],
)
def test_model_that_thinks(off: Any, think: Any, arguments: Any) -> None:
    reasoning = Reasoning(
        begin="<think>",
        end="</think>",
        begin_tokens=(1,),
        end_tokens=(2,),
        opened=False,
        argument="enable_thinking",
        on=True,
        off=off,
    )
    served = msgspec.structs.replace(SERVED, reasoning=reasoning)
    for body, parse in (
        ({"messages": [USER]}, parse_ollama_chat),
        ({"prompt": "Hi"}, parse_ollama_generate),
    ):
        data = json.dumps({"model": "tiny", "think": think, **body}).encode()
        assert parse(data, served).generation.arguments == arguments


def test_model_that_does_not_think_may_be_told_so() -> None:
    assert chat(think=False).generation.arguments == {}


def test_result_whose_call_was_cut_off_is_left_out() -> None:
    messages = [{"role": "system", "content": "x"}, {"role": "tool", "content": "1"}, USER]
    turns = chat(messages=messages, tools=[TOOL]).generation.prompt
    assert isinstance(turns, tuple)
    assert [turn.role for turn in turns] == ["system", "user"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "model: "),
        ({"model": "gpt:latest"}, "the model 'gpt' does not exist"),
        ({"n": 2}, "n is not supported"),
        ({"truncate": True}, "truncate is supported only as false"),
        ({"think": True}, "think: this model does not think"),
        ({"think": "high"}, "think: this model does not think"),
        ({"format": "xml"}, "format: "),
        ({"format": {"not": {"a": 1}}}, "format"),
        ({"options": {"temperature": 9}}, "options.temperature: "),
        ({"options": {"top_k": -1}}, "options.top_k: "),
        ({"options": {"num_predict": -3}}, "options.num_predict: "),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty: "),
        ({"options": {"mirostat": 2}}, "options.mirostat is supported only as 0"),
        ({"options": {"what": 1}}, "options.what is not supported"),
        ({"messages": [USER | {"images": "AAAA"}]}, "messages[0].images: "),
        (
            {"messages": [{"role": "tool", "content": "x"}, USER, USER | {"images": ["AAAA"]}]},
            "messages[2].images[0] is not supported",
        ),
        ({"messages": [USER | {"role": "robot"}]}, "messages[0].role: "),
        (
            {
                "messages": [
                    {"role": "tool", "content": "cut off"},
                    USER,
                    called("add"),
                    {"role": "tool", "content": "1", "tool_name": "sub"},
                ]
            },
            "messages[3].tool_call_id is not the id of an earlier call: 'sub'",
        ),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name: "),
    ],
)
def test_refusals_of_a_chat_name_ollamas_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "x"}, 'template is supported only as ""'),
        ({"suffix": "x"}, 'suffix is supported only as ""'),
        ({"images": ["AAAA"] * 9}, "images: "),
        ({"system": "x", "images": ["AAAA"]}, "images[0] is not supported: the model 'tiny'"),
        ({"raw": True, "images": ["AAAA"]}, "raw cannot be combined with images"),
        ({"context": [1]}, "context is supported only as []"),
        ({"raw": True, "format": "json"}, "raw cannot be combined with format"),
        ({"raw": True, "system": "x"}, "raw cannot be combined with system"),
        ({"messages": [USER]}, "messages is not supported"),
    ],
)
def test_refusals_of_generate(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        generate(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("theirs", "ours", "others"),
    [
        (client.ChatRequest, bodies.OllamaChatBody, bodies.CHAT_WITHOUT_EFFECT),
        (client.GenerateRequest, bodies.OllamaGenerateBody, bodies.GENERATE_WITHOUT_EFFECT),
        (ollama.Message, bodies.OllamaMessageParam, {}),
        (ollama.Message.ToolCall, bodies.OllamaToolCall, {}),
        (ollama.Message.ToolCall.Function, bodies.OllamaCalledFunction, {}),
        (client.ShowRequest, bodies.ShowBody, {}),
        (
            ollama.Options,
            bodies.OllamaOptions,
            {*bodies.OPTIONS_IGNORED, *bodies.OPTIONS_WITHOUT_EFFECT},
        ),
    ],
)
def test_each_field_of_ollamas_own_types_is_decided(
    theirs: Any, ours: type[msgspec.Struct], others: Any
) -> None:
    assert theirs.model_fields.keys() <= {*ours.__struct_fields__, *others}
