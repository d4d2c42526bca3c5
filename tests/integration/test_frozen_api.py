"""OpenAI's client and LangChain against the frozen runtime with the default model."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel, SecretStr

from device_runtime.bundle.release import Release
from tests.support.serving import Serving, eventually

pytestmark = pytest.mark.slow

QUESTION = "Name the capital of France."
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "population": {"type": "integer", "minimum": 0},
    },
    "required": ["city", "population"],
    "additionalProperties": False,
}
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather in a city.", "parameters": CITY},
}


@pytest.fixture(scope="module")
def server(host_release: Release) -> Iterator[Serving]:
    with Serving(host_release.folder) as serving:
        yield serving


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_json_of_a_schema(client: openai.OpenAI, model: str) -> None:
    done = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me of Paris, as JSON."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": CITY, "strict": True},
        },
    )
    assert done.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(done.choices[0].message.content or ""), CITY)


def test_parsed_answer(client: openai.OpenAI, model: str) -> None:
    class City(BaseModel):
        city: str
        large: bool

    done = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": "Paris?"}], response_format=City
    )
    assert isinstance(done.choices[0].message.parsed, City)


def test_schema_that_cannot_be_kept_to_is_refused(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Hi"}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
            },
        )


def test_tool_is_called_and_its_result_used(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    done = client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], tool_choice="required"
    )
    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls or ():
        assert call.type == "function"
        assert call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), CITY)
        messages.append(choice.message.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "It rains."})
        break
    after = client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], max_tokens=30
    )
    assert after.usage is not None
    assert after.usage.completion_tokens > 0


def test_streamed_tool_call(client: openai.OpenAI, model: str) -> None:
    arguments, names, reason = "", [], None
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        stream=True,
    ):
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (names, reason) == (["weather"], "tool_calls")
    jsonschema.validate(json.loads(arguments), CITY)


def test_second_turn_is_remembered(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me about rivers. " * 20}]
    first = client.chat.completions.create(model=model, messages=messages, max_tokens=20)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And lakes?"},
    ]
    second = client.chat.completions.create(model=model, messages=messages, max_tokens=20)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    remembered = second.usage.prompt_tokens_details.cached_tokens or 0
    assert remembered >= first.usage.prompt_tokens - 10


def test_closed_stream_cancels(client: openai.OpenAI, model: str, server: Serving) -> None:
    before = server.get("/v1/status")["requests"]["cancelled"]
    stream = client.completions.create(model=model, prompt="Once", max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: server.get("/v1/status")["requests"]["cancelled"] == before + 1)


def test_log_probabilities(client: openai.OpenAI, model: str) -> None:
    done = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = done.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    text = b"".join(bytes(token.bytes or ()) for token in logprobs.content).decode()
    assert text == done.choices[0].message.content


def test_langchain(server: Serving, model: str) -> None:
    chat = ChatOpenAI(
        model=model,
        base_url=f"{server.url}/v1",
        api_key=SecretStr("unused"),
        temperature=0,
        max_retries=0,
    )
    assert "Paris" in str(chat.invoke([HumanMessage(QUESTION)]).content)
    assert "Paris" in "".join(str(chunk.content) for chunk in chat.stream(QUESTION))
    called: Any = chat.bind_tools([dict(TOOL)], tool_choice="weather").invoke("Weather in Paris?")
    assert called.tool_calls[0]["name"] == "weather"
    jsonschema.validate(called.tool_calls[0]["args"], CITY)
    shaped: Any = chat.with_structured_output(CITY | {"title": "City"}).invoke("Paris?")
    jsonschema.validate(shaped, CITY)
