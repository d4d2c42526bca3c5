"""Requirements of llama.cpp's server tests on OpenAI's forms, with requests of our own.

docs/clients.md counts them. Those that other tests have already are not repeated.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import releases
from tests.support.serving import Serving, sent_events

CONTEXT = 1024
TOKENS = 8
HI: dict[str, Any] = {"role": "user", "content": "Hi"}
PROMPT_TOKENS = 3 + len("user\nHi\nassistant\n")
"""The template's three marks are tokens, and so is each letter."""
SWITCH = {
    "type": "function",
    "function": {
        "name": "switch",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean", "const": True}},
            "required": ["on"],
        },
    },
}


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("openai") / "release"
    release = releases.release(folder, tiny_onnx, context_length=CONTEXT, max_tokens=TOKENS)
    with Serving(release.folder) as server:
        yield server


def post(server: Serving, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=fields, timeout=60)


def chat(server: Serving, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """The choice of an answer; that of a streamed one is put together."""
    body = {"messages": [HI], "stream": stream, **fields}
    response = post(server, "chat/completions", **body)
    if not stream:
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        return dict(choice)
    choices = [chunk["choices"][0] for chunk in sent_events(response)]
    deltas = [choice["delta"] for choice in choices]
    message: dict[str, Any] = {"content": "".join(delta.get("content") or "" for delta in deltas)}
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    if calls:
        arguments = "".join(call["function"]["arguments"] for call in calls)
        assert {call["index"] for call in calls} == {0}
        message["tool_calls"] = [
            {**calls[0], "function": {**calls[0]["function"], "arguments": arguments}}
        ]
    scores = [
        entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]
    ]
    return {**choices[-1], "message": message, "logprobs": {"content": scores}}


def schema(form: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": form}}


def test_streamed_chat_has_one_id_one_role_and_one_end(server: Serving) -> None:
    whole = post(server, "chat/completions", messages=[HI]).json()
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, TOKENS)
    assert whole["choices"][0]["message"]["role"] == "assistant"
    assert whole["choices"][0]["finish_reason"] == "length"
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = sent_events(post(server, "chat/completions", messages=[HI], **options))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["id"].partition("-")[0] for chunk in (whole, *chunks)} == {"chatcmpl"}
    assert {chunk["model"] for chunk in (whole, *chunks)} == {"tiny"}
    *parts, totals = chunks
    assert totals["choices"] == []
    assert totals["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert totals["usage"]["completion_tokens"] == TOKENS
    choices = [part["choices"][0] for part in parts]
    assert [choice["delta"].get("role") for choice in choices] == [
        "assistant",
        *[None] * (len(choices) - 1),
    ]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "length"
    assert "content" not in choices[-1]["delta"]


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "switch", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }


ANSWERED = {
    "a constant": ({"response_format": schema({"const": "eight"})}, '"eight"'),
    "any object": ({"response_format": {"type": "json_object"}}, r"\{.*"),
    "two answers in a row": (
        {"messages": [HI, *[{"role": "assistant", "content": "Ho"}] * 2]},
        "[a-zA-Z]{8}",
    ),
    # A limit may have cut them off.
    "arguments that are not JSON": ({"messages": [HI, call('{"on": '), HI]}, "[a-zA-Z]{8}"),
    "null for tools": ({"tools": None, "tool_choice": None}, "[a-zA-Z]{8}"),
    "no tools": ({"tools": [], "tool_choice": None}, "[a-zA-Z]{8}"),
    "tools that must not be called": ({"tools": [SWITCH], "tool_choice": "none"}, "[a-zA-Z]{8}"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "text"), ANSWERED.values(), ids=ANSWERED)
def test_chat_is_answered(server: Serving, fields: dict[str, Any], text: str, stream: bool) -> None:
    choice = chat(server, stream=stream, **fields)
    assert re.fullmatch(text, choice["message"]["content"], re.DOTALL)
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "sound"}}, "response_format.type"),
        ({"response_format": schema(123)}, "response_format.json_schema.schema"),
        ({"response_format": schema({"type": 123})}, "response_format.json_schema.schema.type"),
        ({"response_format": schema({"type": "x"})}, "response_format.json_schema.schema.type"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [123]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": 123}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": 123}]}, "messages[0].content"),
        ({"messages": [HI, {}]}, "messages[1].role"),
    ],
)
def test_chat_is_refused(server: Serving, fields: dict[str, Any], param: str) -> None:
    response = post(server, "chat/completions", **{"messages": [HI], **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)


@pytest.mark.parametrize("stream", [False, True])
def test_required_tool_is_called_once(server: Serving, stream: bool) -> None:
    required = {"tools": [SWITCH], "tool_choice": "required", "parallel_tool_calls": False}
    choice = chat(server, stream=stream, max_tokens=100, **required)
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    (made,) = choice["message"]["tool_calls"]
    assert made["id"]
    assert made["function"]["name"] == "switch"
    assert json.loads(made["function"]["arguments"]) == {"on": True}


@pytest.mark.parametrize("stream", [False, True])
def test_scores_are_those_of_the_text(server: Serving, stream: bool) -> None:
    choice = chat(server, stream=stream, logprobs=True, top_logprobs=10)
    scores = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in scores) == choice["message"]["content"]
    assert len(scores) == TOKENS
    for entry in scores:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 10


def test_several_choices_have_roles_and_ends(server: Serving) -> None:
    choices = post(server, "chat/completions", messages=[HI], n=2).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice in choices:
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"]
        assert choice["finish_reason"] == "length"


def complete(server: Serving, **fields: Any) -> list[str]:
    response = post(server, "completions", **fields)
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    return [choice["text"] for choice in choices]


def test_streamed_completion_is_the_whole_one(server: Serving) -> None:
    choices = [
        chunk["choices"][0]
        for chunk in sent_events(post(server, "completions", prompt="Once", stream=True))
    ]
    assert ["".join(choice["text"] for choice in choices)] == complete(server, prompt="Once")
    assert {choice["finish_reason"] for choice in choices[:-1]} == {None}
    assert choices[-1]["finish_reason"] == "length"


def test_context_ends_a_completion_that_has_no_other_end(server: Serving) -> None:
    (text,) = complete(server, prompt="Once", max_tokens=10 * CONTEXT)
    assert len("Once" + text) == CONTEXT
    assert post(server, "completions", prompt="Once" * CONTEXT).status_code == 400


def test_seed_decides(server: Serving) -> None:
    texts = [
        complete(server, prompt="Once", temperature=1, seed=seed)[0] for seed in (1, 2, 3, 4, 4)
    ]
    assert len({*texts}) == 4


def test_text_and_its_tokens_are_one_prompt(server: Serving, tiny_hf: Path) -> None:
    vocabulary = json.loads((tiny_hf / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = [vocabulary[letter] for letter in "Once"]
    (text,) = complete(server, prompt="Once")
    assert complete(server, prompt=tokens) == [text]
    assert complete(server, prompt=[tokens, tokens]) == [text] * 2
    assert complete(server, prompt=[tokens, "Once"]) == [text] * 2


def test_clients_at_the_same_time_are_all_answered(server: Serving) -> None:
    prompts = ["A book.", "A poem.", "A song.", "A joke."]
    with ThreadPoolExecutor(len(prompts)) as clients:
        texts = list(clients.map(lambda prompt: complete(server, prompt=prompt), prompts))
    assert texts == [complete(server, prompt=prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"type": "json_schema", "name": "it", "schema": {"const": "eight"}}, '"eight"'),
        ({"type": "json_object"}, r"\{.*"),
        ({"type": "text"}, "[a-zA-Z]{8}"),
    ],
)
def test_response_has_the_form_of_its_text(
    server: Serving, form: dict[str, Any], text: str
) -> None:
    response = post(server, "responses", input="Hi", text={"format": form})
    assert response.status_code == 200, response.text
    (message,) = response.json()["output"]
    assert message["type"] == "message"
    assert re.fullmatch(text, message["content"][0]["text"], re.DOTALL)


def test_response_without_the_schema_of_its_form_is_refused(server: Serving) -> None:
    form = {"type": "json_schema", "name": "it"}
    response = post(server, "responses", input="Hi", text={"format": form})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "text.format.schema"


def test_events_of_a_response_name_one_response_and_one_message(server: Serving) -> None:
    given = [{"role": "system", "content": "A book"}, HI]
    events = sent_events(post(server, "responses", input=given, temperature=0.8, stream=True))
    responses = [event["response"] for event in events if "response" in event]
    (response_id,) = {response["id"] for response in responses}
    assert response_id.startswith("resp_")
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    items = [event["item"]["id"] for event in events if "item" in event]
    items += [event["item_id"] for event in events if "item_id" in event]
    (message,) = responses[-1]["output"]
    assert {*items} == {message["id"]}
    assert message["id"].startswith("msg_")
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == message["content"][0]["text"]
    # A limit ended it: it is not complete.
    assert events[-1]["type"] == "response.incomplete"
    assert responses[-1]["usage"]["output_tokens"] == TOKENS
