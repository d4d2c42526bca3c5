"""LiteLLM, with its provider for servers of the OpenAI API."""

import asyncio
import json
import os
from typing import Any

import cases

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would be fetched

import litellm

litellm.suppress_debug_info = True
litellm.telemetry = False


def complete(messages: list[Any], **options: Any) -> Any:
    return litellm.completion(
        model=f"openai/{cases.MODEL}",
        api_base=cases.V1,
        api_key=cases.KEY,
        messages=messages,
        num_retries=0,
        **options,
    )


def ask(text: str, **options: Any) -> Any:
    return complete([{"role": "user", "content": text}], **options)


def chat() -> None:
    answer = ask(cases.QUESTION)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens > 0


def stream() -> None:
    chunks = list(ask(cases.QUESTION, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = ask(cases.QUESTION)
    assert text == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks)
    assert rebuilt.choices[0].finish_reason == "stop"
    assert rebuilt.usage.total_tokens == whole.usage.total_tokens


def tools() -> None:
    messages: list[Any] = [{"role": "user", "content": cases.WEATHER}]
    options = {"tools": [cases.WEATHER_TOOL], "parallel_tool_calls": False}
    choice = complete(messages, tool_choice="required", **options).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    result = cases.get_weather(**json.loads(call.function.arguments))
    turn = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result}
    after = complete([*messages, choice.message, turn], tool_choice="none", **options)
    assert after.choices[0].finish_reason == "stop"
    assert after.choices[0].message.content


def structured() -> None:
    answer = ask("Tell me of Paris.", response_format=cases.City)
    cases.City.model_validate_json(answer.choices[0].message.content)


def error() -> None:
    cases.raises(litellm.ContextWindowExceededError, lambda: ask(cases.TOO_LONG))
    cases.raises(litellm.BadRequestError, lambda: ask("Hi", temperature=7), "temperature")


def abort() -> None:
    watch = cases.Watch()
    chunks = ask(cases.STORY, stream=True, max_tokens=2000)
    next(iter(chunks))
    chunks.completion_stream.close()
    watch.gone()


async def abort_async() -> None:
    watch = cases.Watch()
    chunks = await litellm.acompletion(
        model=f"openai/{cases.MODEL}",
        api_base=cases.V1,
        api_key=cases.KEY,
        messages=[{"role": "user", "content": cases.STORY}],
        stream=True,
        max_tokens=2000,
    )
    async for _ in chunks:
        break
    await chunks.aclose()
    await asyncio.to_thread(watch.gone)


def responses() -> None:
    answer = litellm.responses(
        model=f"openai/{cases.MODEL}",
        api_base=cases.V1,
        api_key=cases.KEY,
        input=cases.QUESTION,
    )
    assert "Paris" in answer.output_text


cases.run(chat, stream, tools, structured, error, abort, abort_async, responses)
