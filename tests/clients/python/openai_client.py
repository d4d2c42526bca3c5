"""openai: chat completions, and everything else that the client has for this server."""

import asyncio
import json
from typing import Any

import cases
import openai
from openai import AsyncOpenAI, OpenAI

client = OpenAI(base_url=cases.V1, api_key=cases.KEY, max_retries=0)


def ask(text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=cases.MODEL, messages=messages, **options)


def chat() -> None:
    answer = ask(cases.QUESTION)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    assert ask(cases.QUESTION, max_tokens=1).choices[0].finish_reason == "length"


def stream() -> None:
    whole = ask(cases.QUESTION)
    chunks = list(ask(cases.QUESTION, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    with client.chat.completions.stream(
        model=cases.MODEL, messages=[{"role": "user", "content": cases.QUESTION}]
    ) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == text


def tools() -> None:
    messages: list[Any] = [{"role": "user", "content": cases.WEATHER}]
    options: dict[str, Any] = {"model": cases.MODEL, "tools": [cases.WEATHER_TOOL]}
    choice = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **options
    ).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    result = cases.get_weather(**json.loads(call.function.arguments))
    messages += [
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result},
    ]
    after = client.chat.completions.create(messages=messages, tool_choice="none", **options)
    assert after.choices[0].finish_reason == "stop"
    assert after.choices[0].message.content

    with client.chat.completions.stream(
        messages=messages[:1], tool_choice="required", parallel_tool_calls=False, **options
    ) as events:
        final = events.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    assert streamed.id != call.id


def structured() -> None:
    answer = client.chat.completions.parse(
        model=cases.MODEL,
        messages=[{"role": "user", "content": "Tell me of Paris."}],
        response_format=cases.City,
    )
    assert isinstance(answer.choices[0].message.parsed, cases.City)


def error() -> None:
    too_long = cases.raises(openai.BadRequestError, lambda: ask(cases.TOO_LONG))
    assert too_long.code == "context_length_exceeded"
    assert "maximum context length" in too_long.message
    unknown = cases.raises(openai.NotFoundError, lambda: client.models.retrieve("nothing"))
    assert unknown.code == "model_not_found"
    refused = cases.raises(openai.BadRequestError, lambda: ask("Hi", temperature=7))
    assert refused.param == "temperature"
    assert refused.request_id


def abort() -> None:
    watch = cases.Watch()
    with ask(cases.STORY, stream=True, max_tokens=2000) as chunks:
        next(iter(chunks))
    watch.gone()


async def abort_async() -> None:
    watch = cases.Watch()
    async with AsyncOpenAI(base_url=cases.V1, api_key=cases.KEY, max_retries=0) as asynchronous:
        chunks = await asynchronous.chat.completions.create(
            model=cases.MODEL,
            messages=[{"role": "user", "content": cases.STORY}],
            stream=True,
            max_tokens=2000,
        )
        async for _ in chunks:
            break
        await chunks.close()
    await asyncio.to_thread(watch.gone)


def models() -> None:
    names = [model.id for model in client.models.list().data]
    assert names[0] == cases.MODEL
    assert client.models.retrieve(cases.MODEL).id == cases.MODEL


def completions() -> None:
    answer = client.completions.create(model=cases.MODEL, prompt="Once upon a", max_tokens=4)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"


def embeddings() -> None:
    texts = ["A river", "A stream of water", "Four percent"]
    vectors = client.embeddings.create(model=cases.EMBEDDING_MODEL, input=texts).data
    assert [vector.index for vector in vectors] == [0, 1, 2]
    assert len({len(vector.embedding) for vector in vectors}) == 1


cases.run(
    chat, stream, tools, structured, error, abort, abort_async, models, completions, embeddings
)
