"""OpenAI's requests, read."""

import json
from typing import Any

import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.completion_requests import parse_completion
from device_runtime.api.errors import ApiError
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import GenerationRequest, Guidance, Message, TokenIds
from device_runtime.json_schema.grammar import any_object_rules, rules
from device_runtime.tools.dialect import Dialect
from tests.support.conversations import turns

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CONTINUED: dict[str, Any] = {
    "messages": [*HELLO["messages"], {"role": "assistant", "content": "Good"}],
    "continue_final_message": True,
}

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",))
NATIVE = "{% for tool in tools %}<tool_call>{{ tool }}{% endfor %}"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def described(text: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": "f", "description": text, "parameters": parameters}
    return {"type": "function", "function": function}


def parse(served: ServedModel = SERVED, **fields: Any) -> ParsedRequest:
    return parse_chat(json.dumps({**HELLO, **fields}).encode(), served)


def complete(**fields: Any) -> ParsedRequest:
    return parse_completion(json.dumps({"prompt": "Once", **fields}).encode(), SERVED)


def test_plain_request_is_greedy_and_has_the_default_length() -> None:
    assert parse() == ParsedRequest(
        generation=GenerationRequest(
            prompt=(Message(role="user", content="Hello"),), max_tokens=64, temperature=0.0
        ),
        model="tiny",
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
        min_p=0.05,
        repetition_penalty=1.1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"7": 3, "8": -100},
        logprobs=True,
        top_logprobs=2,
        n=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert asked.generation == GenerationRequest(
        prompt=(Message(role="user", content="Hello"),),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias=((7, 3.0), (8, -100.0)),
        logprobs=2,
        n=3,
        stop=("a", "b"),
        seed=-3,
    )
    assert asked.stream
    assert asked.include_usage


@pytest.mark.parametrize("option", [{"seed": 1}, {"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.5}])
def test_sampling_options_alone_mean_sampling(option: dict[str, Any]) -> None:
    assert parse(**option).generation.temperature == 1.0
    assert parse(**option, temperature=0).generation.temperature == 0.0


def test_content_in_parts_and_the_developer_role() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the capital"}]
    asked = parse(messages=[{"role": "developer", "content": parts}])
    assert asked.generation.prompt == (Message(role="system", content="What is\nthe capital"),)


def test_answer_is_taken_back_as_the_clients_of_openai_have_parsed_it() -> None:
    function = {"name": "f", "arguments": '{"a": 1}'}
    call = {"id": "call_1", "type": "function", "function": function}
    parsed_call = {**call, "function": {**function, "parsed_arguments": {"a": 1}}}
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    ]
    parsed_turns = [{**turns[0], "tool_calls": [parsed_call], "parsed": None}, turns[1]]
    answer = {"role": "assistant", "content": '{"b": 2}'}
    asked = parse(messages=[*turns, answer, *HELLO["messages"]])
    again = parse(messages=[*parsed_turns, {**answer, "parsed": {"b": 2}}, *HELLO["messages"]])
    assert again.generation.prompt == asked.generation.prompt


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    earlier: list[dict[str, Any]] = [
        {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None},
        {"role": "assistant", "content": "x", "annotations": [], "tool_calls": []},
    ]
    asked = parse(
        messages=[*earlier, *HELLO["messages"]],
        n=1,
        user="me",
        logprobs=False,
        top_logprobs=0,
        presence_penalty=0.0,
        tools=None,
        response_format={"type": "text"},
        stop=None,
        temperature=None,
        reasoning_effort="none",
        verbosity="medium",
        prediction={"type": "content", "content": "x"},
        prompt_cache_retention="24h",
        stream_options={"include_obfuscation": False},
    )
    assert len(turns(asked.generation)) == 3


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
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"speed": 2}}, "stream_options.speed"),
        ({"verbosity": "low"}, "verbosity"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"min_p": 1.1}, "min_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"the": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias[...]"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"continue_final_message": True}, "continue_final_message"),
        ({**CONTINUED, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({**CONTINUED, "response_format": {"type": "json_object"}}, "continue_final_message"),
        ({**CONTINUED, "tools": [WEATHER], "tool_choice": "required"}, "continue_final_message"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"num_beams": 9}, "num_beams"),
        ({"model": 5}, "model"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "none"}]},
            "messages[0].tool_call_id",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "x", "nick": "me"}]}, "messages[0].nick"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.body.error.param == param
    assert param in caught.value.body.error.message
    assert caught.value.body.error.type == "invalid_request_error"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(data, SERVED)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_missing_messages_are_named() -> None:
    with pytest.raises(ApiError, match="messages"):
        parse_chat(b"{}", SERVED)


def test_another_model_does_not_exist() -> None:
    with pytest.raises(ApiError, match="gpt") as caught:
        parse(model="gpt")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_adapter_is_chosen_by_the_models_name() -> None:
    asked = parse(model="tiny:a")
    assert (asked.model, asked.generation.adapter) == ("tiny:a", "a")
    with pytest.raises(ApiError, match="tiny:b"):
        parse(model="tiny:b")


def test_beam_search_goes_alone() -> None:
    assert parse(num_beams=4).generation.num_beams == 4
    assert parse(num_beams=4, temperature=0).generation.num_beams == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"seed": 1},
        {"stream": True},
        {"n": 2},
        {"logprobs": True},
        {"logit_bias": {"1": 1}},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"presence_penalty": 0.1},
        {"response_format": {"type": "json_object"}},
        {"tools": [WEATHER]},
    ],
)
def test_beam_search_with_what_it_cannot_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="num_beams") as caught:
        parse(num_beams=2, **fields)
    assert caught.value.code == "unsupported_value"


TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_null_characters_are_part_of_a_text(role: str) -> None:
    generation = parse(messages=[{"role": role, "content": "a\0b"}, TURN], stop="\0").generation
    assert [turn.content for turn in turns(generation)] == ["a\0b", "Hi"]
    assert generation.stop == ("\0",)
    assert complete(prompt="a\0b").generation.prompt == "a\0b"
    described_tool = parse(tools=[described("a\0b")]).generation
    assert r"a\\u0000b" in str(described_tool.prompt)


def test_null_characters_of_a_schema_are_written_as_escapes() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"const": "a\0b"}}}
    guidance = parse(response_format=form).generation.guidance
    assert guidance is not None
    assert r"a\\u0000b" in guidance.data


def test_formats_of_answers_become_guidance() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    found = parse(response_format=form).generation.guidance
    assert found is not None
    assert found == Guidance(kind="lark_grammar", data="\n".join(rules(schema)) + "\n")
    anything = parse(response_format={"type": "json_object"}).generation.guidance
    assert anything == Guidance(kind="lark_grammar", data="\n".join(any_object_rules()) + "\n")


@pytest.mark.parametrize(
    ("fields", "free_until"),
    [
        ({"response_format": {"type": "json_object"}}, ""),
        ({"tools": [WEATHER], "tool_choice": "required"}, ""),
        ({"tools": [WEATHER]}, "<tool_call>"),
    ],
)
def test_stop_strings_apply_to_free_text(fields: dict[str, Any], free_until: str) -> None:
    generation = parse(stop="}", **fields).generation
    assert generation.stop == ("}",)
    assert generation.guidance is not None
    assert generation.guidance.free_until == free_until


def test_schema_that_cannot_be_kept_to_is_refused_by_its_keyword() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    with pytest.raises(ApiError, match="uniqueItems is not supported") as caught:
        parse(response_format=form)
    assert caught.value.code == "unsupported_schema"
    assert caught.value.param == "response_format.json_schema.schema.properties.a.uniqueItems"


def test_tools_become_guidance_and_a_system_turn() -> None:
    asked = parse(tools=[WEATHER])
    assert [tool.name for tool in asked.tools.tools] == ["weather"]
    assert asked.generation.guidance is not None
    assert asked.generation.guidance.kind == "lark_grammar"
    first = turns(asked.generation)[0]
    assert first.role == "system"
    assert "weather" in first.content
    assert parse(tools=[WEATHER], tool_choice="none").generation.guidance is None


def test_names_of_speakers_reach_the_template() -> None:
    roles = ("system", "user", "assistant")
    prompt = parse(
        messages=[{"role": role, "content": "x", "name": "Ann"} for role in roles]
    ).generation.prompt
    assert prompt == tuple(Message(role=role, content="x", name="Ann") for role in roles)
    unnamed = [{"role": "user", "content": "x", "name": None}]
    assert parse(messages=unnamed).generation.prompt == (Message(role="user", content="x"),)


@pytest.mark.parametrize("template", ["", NATIVE])
def test_name_of_a_tools_turn_is_that_of_the_call(template: str) -> None:
    """LangChain.js sends a name with each result."""
    served = ServedModel(model="tiny", dialect=Dialect.of(template), max_tokens=64)
    function = {"name": "weather", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "other"},
    ]
    names = [turn.name for turn in turns(parse(served, messages=messages).generation)]
    assert names == ["Ann", "", "weather" if template else ""]


def test_system_prompt_of_the_device_gives_way_to_the_clients() -> None:
    served = ServedModel(
        model="tiny", dialect=Dialect.of(""), max_tokens=64, system_prompt="Be short."
    )
    first = turns(parse(served).generation)[0]
    assert first == Message(role="system", content="Be short.")
    own = [{"role": "developer", "content": "Be long."}, *HELLO["messages"]]
    assert turns(parse(served, messages=own).generation)[0] == Message(
        role="system", content="Be long."
    )


def test_number_of_messages_is_bounded() -> None:
    served = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, max_messages=3)
    assert parse(served, messages=HELLO["messages"] * 3)
    with pytest.raises(ApiError, match="4 messages"):
        parse(served, messages=HELLO["messages"] * 4)


def test_completion_of_raw_text() -> None:
    asked = complete(max_tokens=5, echo=True, stop="x")
    assert asked.generation == GenerationRequest(
        prompt="Once", max_tokens=5, stop=("x",), echo=True
    )
    assert complete(prompt=["Once"], logprobs=2).generation.logprobs == 2
    assert complete(max_tokens=0).generation.max_tokens == 0
    assert complete().generation.max_tokens == 64


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b"], ("a", "b")),
        ([5, 0], (TokenIds((5, 0)),)),
        ([[5], [6, 7]], (TokenIds((5,)), TokenIds((6, 7)))),
        (["a", [6]], ("a", TokenIds((6,)))),
    ],
)
def test_several_prompts_and_token_ids(prompt: object, prompts: object) -> None:
    generation = complete(prompt=prompt).generation
    assert (generation.prompt, generation.prompts) == ("", prompts)


def test_trailing_assistant_turn_is_continued() -> None:
    generation = parse(**CONTINUED, add_generation_prompt=False).generation
    assert generation.continues
    assert turns(generation)[-1] == Message(role="assistant", content="Good")
    assert parse(add_generation_prompt=True).generation == parse().generation


def test_form_of_an_answer_beside_tools_is_the_alternative_to_calls() -> None:
    form = {"type": "json_object"}
    both = parse(response_format=form, tools=[WEATHER]).generation.guidance
    assert both is not None
    assert "start: answer |" in both.data
    assert both.data.count("\nanswer: ") == 1
    required = parse(response_format=form, tools=[WEATHER], tool_choice="required")
    assert required.generation == parse(tools=[WEATHER], tool_choice="required").generation


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"messages": []}, "messages"),
    ],
)
def test_wrong_fields_of_a_completion_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        complete(**fields)
    assert caught.value.body.error.param == param


def test_arguments_of_the_chat_template_reach_the_engine() -> None:
    arguments = {"enable_thinking": False, "reasoning_effort": "high", "thinking_budget": 512}
    assert parse(chat_template_kwargs=arguments).generation.arguments == arguments


@pytest.mark.parametrize("arguments", [None, {}])
def test_no_arguments_leave_the_template_alone(arguments: dict[str, Any] | None) -> None:
    assert not parse(chat_template_kwargs=arguments).generation.arguments


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"messages": True}, "chat_template_kwargs.messages"),
        ({"add_generation_prompt": False}, "chat_template_kwargs.add_generation_prompt"),
        ({"a %}{{ 1 }}{% set b": 1}, "chat_template_kwargs"),
        ({"effort": "' + bos_token + '"}, "chat_template_kwargs"),
        ({"effort": ["high"]}, "chat_template_kwargs"),
        ({"effort": 1.5}, "chat_template_kwargs"),
        ({f"a{'b' * number}": True for number in range(17)}, "chat_template_kwargs"),
        ("enable_thinking", "chat_template_kwargs"),
    ],
)
def test_wrong_arguments_of_the_chat_template_are_named(arguments: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(chat_template_kwargs=arguments)
    assert str(caught.value.param).startswith(param)
