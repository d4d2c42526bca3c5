"""ollama: the native API, and the way that Home Assistant's integration takes through it."""

import asyncio
import json
from typing import Any

import cases
import ollama

client = ollama.Client(host=cases.URL)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat() -> None:
    answer = client.chat(cases.MODEL, messages=[user(cases.QUESTION)])
    assert "Paris" in answer.message.content
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.prompt_eval_count > 0
    assert answer.eval_count > 0
    assert answer.total_duration > answer.eval_duration > 0
    short = client.chat(
        cases.MODEL, messages=[user(cases.QUESTION)], options={"num_predict": 1, "num_ctx": 2048}
    )
    assert short.done_reason == "length"


def stream() -> None:
    whole = client.chat(cases.MODEL, messages=[user(cases.QUESTION)])
    parts = list(client.chat(cases.MODEL, messages=[user(cases.QUESTION)], stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def tools() -> None:
    """Ollama has no way to demand a call: an earlier one, and its result, are sent back."""
    call = ollama.Message.ToolCall(
        function=ollama.Message.ToolCall.Function(name="get_weather", arguments={"city": "Paris"})
    )
    messages: list[Any] = [
        user(cases.WEATHER),
        ollama.Message(role="assistant", tool_calls=[call]),
        {"role": "tool", "tool_name": "get_weather", "content": "It rains."},
    ]
    answer = client.chat(cases.MODEL, messages=messages, tools=[cases.get_weather])
    assert answer.message.content or answer.message.tool_calls
    assert answer.done_reason == "stop"


def calls() -> None:
    """A conversation in which the model goes on as it began: it calls the tool again."""
    messages: list[Any] = []
    for city in ("Rome", "Berlin", "Madrid"):
        function = {"name": "get_weather", "arguments": {"city": city}}
        messages += [
            user(f"What is the weather in {city}?"),
            {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
            {"role": "tool", "tool_name": "get_weather", "content": cases.get_weather(city)},
            {"role": "assistant", "content": cases.get_weather(city)},
        ]
    messages.append(user(cases.WEATHER))
    whole = client.chat(cases.MODEL, messages=messages, tools=[cases.get_weather])
    (call,) = whole.message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(call.function.arguments["city"], str)
    parts = client.chat(cases.MODEL, messages=messages, tools=[cases.get_weather], stream=True)
    streamed = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function for call in streamed] == [call.function]


def structured() -> None:
    answer = client.chat(
        cases.MODEL, messages=[user("Tell me of Paris.")], format=cases.City.model_json_schema()
    )
    cases.City.model_validate_json(answer.message.content)
    free = client.chat(
        cases.MODEL,
        messages=[user("Paris, as JSON.")],
        format="json",
        options={"num_predict": 20},
    )
    assert free.message.content.lstrip().startswith("{")


def error() -> None:
    unknown = cases.raises(
        ollama.ResponseError, lambda: client.chat("nothing", messages=[user("Hi")]), "nothing"
    )
    assert unknown.status_code == 404
    too_long = cases.raises(
        ollama.ResponseError,
        lambda: client.chat(cases.MODEL, messages=[user(cases.TOO_LONG)]),
        "context length",
    )
    assert too_long.status_code == 400


def abort() -> None:
    watch = cases.Watch()
    parts = client.chat(
        cases.MODEL, messages=[user(cases.STORY)], stream=True, options={"num_predict": 2000}
    )
    next(parts)
    parts.close()
    watch.gone()


def generate() -> None:
    whole = client.generate(cases.MODEL, cases.QUESTION, system="You answer briefly.")
    assert whole.response
    parts = list(
        client.generate(cases.MODEL, cases.QUESTION, system="You answer briefly.", stream=True)
    )
    assert "".join(part.response for part in parts) == whole.response
    raw = client.generate(cases.MODEL, "Once upon a", raw=True, options={"num_predict": 4})
    assert raw.eval_count == 4
    loaded = client.generate(cases.MODEL, "")
    assert (loaded.response, loaded.done_reason) == ("", "load")


def models() -> None:
    """Ollama's own names have a tag, which clients may add."""
    (name,) = [model.model for model in client.list().models if cases.MODEL in model.model]
    shown = client.show(name)
    assert "completion" in shown.capabilities
    assert "tools" in shown.capabilities
    assert client.chat(name, messages=[user("Hi")], options={"num_predict": 1}).done
    assert client.chat(f"{cases.MODEL}:latest", messages=[user("Hi")]).done


def embeddings() -> None:
    answer = client.embed(cases.EMBEDDING_MODEL, ["A river", "Four percent"])
    assert len(answer.embeddings) == 2


async def home_assistant() -> None:
    """As its conversation agent asks: streamed, with tools, options and `keep_alive`."""
    assistant = ollama.AsyncClient(host=cases.URL, timeout=5)
    await assistant.list()
    function = {"name": "HassTurnOn", "arguments": {"name": "Lamp"}}
    tool = {
        "type": "function",
        "function": {
            "name": "HassTurnOn",
            "description": "Turns on a device",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "domain": {"type": "array", "items": {"type": "string"}},
                },
                "required": [],
            },
        },
    }
    messages: list[Any] = [
        ollama.Message(role="system", content="You control a home."),
        ollama.Message(role="user", content="Turn on the lamp."),
        ollama.Message(role="assistant", content="", tool_calls=[{"function": function}]),
        ollama.Message(role="tool", content=json.dumps({"success": True})),
    ]
    parts = await assistant.chat(
        model=cases.MODEL,
        messages=messages,
        tools=[tool],
        stream=True,
        keep_alive="-1s",
        options={"num_ctx": 8192},
        think=False,
    )
    async for part in parts:
        last = part
    assert last.done
    watch = cases.Watch()
    parts = await assistant.chat(
        model=cases.MODEL,
        messages=[user(cases.STORY)],
        stream=True,
        keep_alive=-1,
        options={"num_predict": 2000},
    )
    async for _ in parts:
        break
    await parts.aclose()
    await asyncio.to_thread(watch.gone)


cases.run(
    chat,
    stream,
    tools,
    calls,
    structured,
    error,
    abort,
    generate,
    models,
    embeddings,
    home_assistant,
)
