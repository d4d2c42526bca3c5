"""Requests for responses: each form of input, and each refusal."""

import json
from typing import Any

import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.openai_responses.requests import ResponseRequest, parse_response
from device_runtime.api.openai_responses.store import KeptResponse, ResponseStore
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import GenerationRequest
from device_runtime.tools.dialect import Dialect

SERVED = ServedModel(
    model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",), max_messages=5
)
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
CHAT_TOOL = {"type": "function", "function": {"name": "add", "parameters": TOOL["parameters"]}}
CALL = {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "2"}
ASKED = {"role": "user", "content": "Hi"}


def parse(*, store: ResponseStore | None = None, owner: str = "", **fields: Any) -> ResponseRequest:
    data = json.dumps({"input": "Hi", **fields}).encode()
    return parse_response(data, SERVED, store or ResponseStore(0, 0), owner)


def engine(**fields: Any) -> GenerationRequest:
    return parse(**fields).parsed.generation


def chat(*messages: dict[str, Any], **fields: Any) -> GenerationRequest:
    """The same request as a chat."""
    return parse_chat(json.dumps({"messages": messages, **fields}).encode(), SERVED).generation


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    return caught.value


def kept(owner: str = "") -> ResponseStore:
    store = ResponseStore(5, 1 << 20)
    output = [{"type": "message", "id": "msg_1", "role": "assistant", "content": "Hello"}]
    store.put(
        KeptResponse(
            id="resp_1",
            owner=owner,
            response=json.dumps({"output": output}).encode(),
            items=json.dumps([{"type": "message", "id": "msg_0", **ASKED}]).encode(),
            item_ids=("msg_0", "msg_1"),
        )
    )
    return store


def test_text_is_a_message_of_the_user() -> None:
    assert engine() == chat(ASKED)


@pytest.mark.parametrize(
    ("item", "turn"),
    [
        (ASKED, ASKED),
        ({"type": "message", **ASKED}, ASKED),
        ({"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, ASKED),
        ({"role": "system", "content": "Hi"}, {"role": "system", "content": "Hi"}),
        ({"role": "developer", "content": "Hi"}, {"role": "system", "content": "Hi"}),
        (
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "phase": None,
                "content": [
                    {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
                ],
            },
            {"role": "assistant", "content": "Hi"},
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            {"role": "assistant", "content": "No"},
        ),
    ],
)
def test_each_form_of_a_message(item: dict[str, Any], turn: dict[str, Any]) -> None:
    assert engine(input=[item]) == chat(turn)


def test_parts_of_a_message_are_joined_as_in_a_chat() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    same = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert engine(input=[{"role": "user", "content": parts}]) == chat(
        {"role": "user", "content": same}
    )


def test_instructions_come_first() -> None:
    assert engine(instructions="Be brief.") == chat(
        {"role": "system", "content": "Be brief."}, ASKED
    )


@pytest.mark.parametrize("output", ["2", [{"type": "input_text", "text": "2"}]])
def test_message_and_calls_are_one_turn(output: Any) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    again = called | {"id": "d"}
    said = {"role": "assistant", "content": "Let me see."}
    items = [
        ASKED,
        said,
        CALL,
        CALL | {"call_id": "d", "id": "fc_1", "status": "completed"},
        RESULT | {"output": output},
    ]
    assert engine(input=items, tools=[TOOL]) == chat(
        ASKED,
        said | {"tool_calls": [called, again]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
        tools=[CHAT_TOOL],
    )


def test_call_without_a_message_is_a_turn() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert engine(input=[ASKED, CALL, RESULT]) == chat(
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    )


THOUGHTS: dict[str, Any] = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "encrypted_content": None,
}
THOUGHT_PARTS: tuple[dict[str, Any], ...] = (
    {"content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"summary": [{"type": "summary_text", "text": "Hm."}]},
)


@pytest.mark.parametrize("parts", THOUGHT_PARTS)
def test_thoughts_belong_to_the_turn_that_follows(parts: dict[str, Any]) -> None:
    said = {"role": "assistant", "content": "Let me see."}
    called = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    result = {"role": "tool", "content": "2", "tool_call_id": "c"}
    thought = {"reasoning_content": "Hm."}
    turn = said | thought | {"tool_calls": [called]}
    thinking = THOUGHTS | parts
    assert engine(input=[ASKED, thinking, said, CALL, RESULT]) == chat(ASKED, turn, result)
    assert engine(input=[ASKED, said, thinking, CALL, RESULT]) == chat(
        ASKED, said, {"role": "assistant", "content": "", "tool_calls": [called]} | thought, result
    )


def test_thoughts_without_an_answer_are_left_out() -> None:
    thinking = THOUGHTS | THOUGHT_PARTS[0]
    assert engine(input=[ASKED, thinking, ASKED]) == chat(ASKED, ASKED)


def test_conversation_goes_on_from_a_kept_response() -> None:
    said = {"role": "assistant", "content": "Hello"}
    assert engine(store=kept(), previous_response_id="resp_1") == chat(ASKED, said, ASKED)


@pytest.mark.parametrize("reference", [{"type": "item_reference"}, {}, {"type": None}])
def test_reference_to_a_kept_item(reference: dict[str, Any]) -> None:
    items = [ASKED, {"id": "msg_1", **reference}, ASKED]
    said = {"role": "assistant", "content": "Hello"}
    assert engine(store=kept(), input=items) == chat(ASKED, said, ASKED)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"model": "tiny:a"}, {"model": "tiny:a"}),
        ({"max_output_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "null"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "null"}},
                }
            },
        ),
        ({"tools": [TOOL]}, {"tools": [CHAT_TOOL]}),
        (
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"tools": [CHAT_TOOL], "parallel_tool_calls": False},
        ),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            {"tools": [CHAT_TOOL], "tool_choice": "required"},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "add"}},
            {
                "tools": [CHAT_TOOL],
                "tool_choice": {"type": "function", "function": {"name": "add"}},
            },
        ),
    ],
)
def test_field_has_the_effect_of_its_like_in_a_chat(
    fields: dict[str, Any], same: dict[str, Any]
) -> None:
    assert engine(**fields) == chat(ASKED, **same)
    assert engine(**fields) != engine()


def test_allowed_tools_are_the_only_ones() -> None:
    other = TOOL | {"name": "other"}
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "add"}],
    }
    parsed = parse(tools=[other, TOOL], tool_choice=choice).parsed
    assert [tool.name for tool in parsed.tools.tools] == ["add"]
    assert parsed.tools.required


def test_streaming_is_a_property_of_the_request() -> None:
    assert parse(stream=True).parsed.stream
    assert not parse(stream=None).parsed.stream


@pytest.mark.parametrize(
    "fields",
    [
        {"background": False},
        {"context_management": []},
        {"conversation": None},
        {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
        {"max_tool_calls": 3},
        {"metadata": {"a": "b"}},
        {"prompt_cache_key": "a", "prompt_cache_retention": "24h", "user": "me"},
        {"reasoning": {"effort": None, "summary": "auto", "context": "auto"}},
        {"safety_identifier": "a"},
        {"service_tier": "auto"},
        {"store": False},
        {"stream_options": {"include_obfuscation": False}},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"tool_choice": "auto"},
        {"tools": []},
        {"top_logprobs": 0},
        {"truncation": "disabled"},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert engine(**fields) == engine()


def test_what_asks_for_nothing_in_a_tool_is_accepted() -> None:
    more = {"defer_loading": False, "allowed_callers": ["direct"], "output_schema": {}}
    assert engine(tools=[TOOL | more | {"strict": None}]) == engine(tools=[TOOL])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"moderation": {}}, "moderation"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"include": ["everything"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": "b" * 513}}, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"effort": "utmost"}}, "reasoning.effort"),
        ({"reasoning": {"budget": 3}}, "reasoning.budget"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "a",
                        "schema": {"type": "array", "uniqueItems": True},
                    }
                }
            },
            "text.format.schema.uniqueItems",
        ),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"colour": "red"}}, "text.colour"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "add"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "custom", "name": "a"}]}, "tools[1].type"),
        ({"tools": [TOOL | {"async": True}]}, "tools[0].async"),
        ({"tools": [TOOL | {"colour": "red"}]}, "tools[0].colour"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL | {"parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"tools": [{"type": "function", "name": "a"}] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "sub"}},
            "tool_choice.name",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "sub"}],
                },
            },
            "tool_choice.tools[0].name",
        ),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [ASKED] * 6}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [ASKED, ASKED | {"colour": "red"}]}, "input[1].colour"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [CALL | {"name": "a b"}]}, "input[0].name"),
        ({"input": [CALL | {"namespace": "a"}]}, "input[0].namespace"),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input[0].call_id"),
        ({"input": [RESULT]}, "input[0].call_id"),
        ({"input": [CALL, RESULT | {"output": 3}]}, "input[1].output"),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
            "input[0].encrypted_content",
        ),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"input": [{}]}, "input[0].id"),
    ],
)
def test_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (400, param)
    assert str(error).startswith(param)


def test_unknown_model_is_not_found() -> None:
    error = refused(model="gpt-6")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_strict_tool_with_an_unsupported_schema_is_refused() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool = TOOL | {"parameters": parameters}
    error = refused(tools=[tool | {"strict": True}])
    assert (error.param, error.code) == ("tools[0].parameters", "unsupported_schema")
    for strict in (False, None):
        assert engine(tools=[tool | {"strict": strict}]).guidance is not None


def test_response_that_is_not_kept() -> None:
    with pytest.raises(ApiError, match="send the whole conversation") as caught:
        parse(previous_response_id="resp_2", store=kept())
    error = caught.value
    assert (error.status, error.code) == (404, "previous_response_not_found")
    assert error.param == "previous_response_id"


def test_response_of_another_key_is_not_seen() -> None:
    with pytest.raises(ApiError) as caught:
        parse(previous_response_id="resp_1", store=kept("alice"), owner="bob")
    assert caught.value.code == "previous_response_not_found"


@pytest.mark.parametrize(("item_id", "owner"), [("msg_9", "alice"), ("msg_1", "bob")])
def test_reference_to_what_is_not_kept(item_id: str, owner: str) -> None:
    items = [{"type": "item_reference", "id": item_id}]
    with pytest.raises(ApiError) as caught:
        parse(input=items, store=kept("alice"), owner=owner)
    assert (caught.value.status, caught.value.param) == (404, "input[0]")


def test_earlier_calls_count_for_results() -> None:
    store = ResponseStore(5, 1 << 20)
    store.put(
        KeptResponse(
            id="resp_1",
            owner="",
            response=json.dumps({"output": [CALL | {"id": "fc_1"}]}).encode(),
            items=json.dumps([{"type": "message", "id": "msg_0", **ASKED}]).encode(),
            item_ids=("msg_0", "fc_1"),
        )
    )
    prompt = engine(store=store, input=[RESULT], previous_response_id="resp_1").prompt
    assert isinstance(prompt, tuple)
    assert "2" in prompt[-1].content


def test_body_that_is_not_json() -> None:
    with pytest.raises(ApiError) as caught:
        parse_response(b"{", SERVED, ResponseStore(0, 0), "")
    assert caught.value.code == "invalid_json"
