"""The Responses API with OpenAI's own client and the tiny real model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest

from device_runtime.server import api_keys
from tests.support import releases
from tests.support.serving import Serving, eventually

TOOL: Any = {
    "type": "function",
    "name": "add",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
SETTINGS: dict[str, Any] = {"model": "tiny", "max_output_tokens": 20}


class City(pydantic.BaseModel):
    inhabitants: int = pydantic.Field(ge=1, le=9)
    large: bool


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("responses") / "release"
    return releases.release(folder, tiny_onnx, context_length=2048).folder


@pytest.fixture(scope="module")
def server(release: Path) -> Iterator[Serving]:
    with Serving(release) as server:
        SETTINGS["model"] = server.get("/v1/models")["data"][0]["id"]
        yield server


def test_whole_and_streamed_answers_are_the_same(client: openai.OpenAI) -> None:
    whole = client.responses.create(input="Hi", **SETTINGS)
    assert whole.output_text
    assert whole.usage is not None
    assert 0 < whole.usage.output_tokens <= 20
    events = list(client.responses.create(input="Hi", stream=True, **SETTINGS))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    # The tiny model repeats itself until it may not go on.
    assert events[-1].type == "response.incomplete"
    last = events[-1].response
    assert "".join(pieces) == last.output_text == whole.output_text
    assert last.status == whole.status
    assert last.usage is not None
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_a_cut_answer_is_incomplete(client: openai.OpenAI) -> None:
    cut = client.responses.create(input="Hi", **SETTINGS | {"max_output_tokens": 1})
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_the_next_turn_is_that_of_the_same_chat(client: openai.OpenAI) -> None:
    first = client.responses.create(input="Hi", **SETTINGS)
    second = client.responses.create(input="And?", previous_response_id=first.id, **SETTINGS)
    chat = client.chat.completions.create(
        model=SETTINGS["model"],
        max_tokens=20,
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And?"},
        ],
    )
    assert second.output_text == chat.choices[0].message.content
    assert second.usage is not None
    assert chat.usage is not None
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in items] == ["message"] * 3


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_tools_over_two_turns(client: openai.OpenAI, stateless: bool, stream: bool) -> None:
    asked: Any = [{"role": "user", "content": "What is 1 + 1?"}]
    options: dict[str, Any] = SETTINGS | {"tools": [TOOL], "store": not stateless}
    required: dict[str, Any] = options | {"max_output_tokens": 200, "tool_choice": "required"}
    required["parallel_tool_calls"] = False
    if stream:
        with client.responses.stream(input=asked, **required) as events:
            first: Any = events.get_final_response()
    else:
        first = client.responses.create(input=asked, **required)
    (call,) = first.output
    assert (call.type, call.name) == ("function_call", "add")
    assert pydantic.TypeAdapter(dict[str, int]).validate_json(call.arguments).keys() == {"a"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "2"}
    if stateless:
        again = client.responses.create(input=[*asked, *first.output, result], **options)
    else:
        again = client.responses.create(input=[result], previous_response_id=first.id, **options)
    assert again.output
    assert again.usage is not None
    assert again.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_answer_is_parsed_into_a_model(client: openai.OpenAI, stream: bool) -> None:
    settings = SETTINGS | {"max_output_tokens": 100}
    if stream:
        with client.responses.stream(input="Paris", text_format=City, **settings) as events:
            parsed = events.get_final_response().output_parsed
    else:
        parsed = client.responses.parse(input="Paris", text_format=City, **settings).output_parsed
    assert isinstance(parsed, City)


def test_tokens_are_counted(client: openai.OpenAI) -> None:
    answer = client.responses.create(input="Hi", instructions="Be brief.", **SETTINGS)
    count = client.responses.input_tokens.count(input="Hi", instructions="Be brief.")
    assert answer.usage is not None
    assert count.input_tokens == answer.usage.input_tokens


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        input="Hi",
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        **SETTINGS,
    )
    (message,) = answer.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    text = b"".join(bytes(entry.bytes) for entry in part.logprobs).decode(errors="replace")
    assert text.startswith(part.text[:5])
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_response_is_kept_until_it_is_deleted(client: openai.OpenAI) -> None:
    answer = client.responses.create(input="Hi", metadata={"a": "b"}, **SETTINGS)
    again = client.responses.retrieve(answer.id)
    assert (again.output_text, again.metadata) == (answer.output_text, {"a": "b"})
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(input="Hi", previous_response_id=answer.id, **SETTINGS)
    assert caught.value.code == "previous_response_not_found"


def test_errors_have_the_client_s_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="web_search"):
        client.responses.create(input="Hi", tools=[{"type": "web_search"}], **SETTINGS)
    with pytest.raises(openai.NotFoundError, match="gpt-6"):
        client.responses.create(input="Hi", model="gpt-6")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="a" * 3000, **SETTINGS)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    with pytest.raises(openai.BadRequestError, match="close its connection"):
        client.responses.cancel("resp_1")


def test_abort_frees_the_model(server: Serving, client: openai.OpenAI) -> None:
    before = server.get("/v1/status")["requests"]
    stream = client.responses.create(
        input="Hi", stream=True, **SETTINGS | {"max_output_tokens": 1900}
    )
    next(iter(stream))
    stream.close()
    # An answer that ended before the connection did counts as completed.
    eventually(lambda: sum(_ended(server.get("/v1/status")["requests"], before)) == 1)
    assert client.responses.create(input="Hi", **SETTINGS).output_text


def _ended(now: dict[str, int], before: dict[str, int]) -> list[int]:
    return [now[name] - before[name] for name in ("cancelled", "completed")]


def test_limits_and_keys(release: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    alice, bob = (api_keys.create(keys, name) for name in ("alice", "bob"))
    limits = ("--stored-responses", "2", "--api-keys-file", str(keys))
    with Serving(release, *limits) as server:

        def create(key: str, **fields: Any) -> httpx.Response:
            body = {"input": "Hi", "max_output_tokens": 2, **fields}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{server.url}/v1/responses", json=body, headers=headers, timeout=60)

        first, second, third = (create(alice).json()["id"] for _ in range(3))
        assert create(alice, previous_response_id=first).status_code == 404
        assert create(alice, previous_response_id=second, store=False).status_code == 200
        assert create(bob, previous_response_id=third).status_code == 404
