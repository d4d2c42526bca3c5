"""Pydantic AI: an agent over chat completions."""

import asyncio
from typing import Any

import cases
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelContextWindowExceededError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=cases.V1, api_key=cases.KEY)
kind = OpenAIResponsesModel if cases.WAY == "responses" else OpenAIChatModel
model = kind(cases.MODEL, provider=provider)


class FirstACall(AbstractCapability[Any]):
    """The first step calls a tool, the others do not."""

    def get_model_settings(self) -> Any:
        return lambda run: {
            "tool_choice": "required" if run.run_step == 1 else "none",
            "parallel_tool_calls": False,
        }


async def chat() -> None:
    result = await Agent(model).run(cases.QUESTION)
    assert "Paris" in result.output
    assert result.usage.output_tokens > 0


async def stream() -> None:
    whole = await Agent(model).run(cases.QUESTION)
    async with Agent(model).run_stream(cases.QUESTION) as result:
        deltas = [delta async for delta in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(deltas) == whole.output
    assert result.usage.output_tokens == whole.usage.output_tokens


async def tools() -> None:
    called = []

    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return cases.get_weather(city)

    agent = Agent(model, tools=[get_weather], capabilities=[FirstACall()])
    result = await agent.run(cases.WEATHER)
    assert called
    assert isinstance(result.output, str)


async def structured() -> None:
    for output in (ToolOutput(cases.City), NativeOutput(cases.City)):
        result = await Agent(model, output_type=output).run("Tell me of Paris.")
        assert isinstance(result.output, cases.City), output


async def error() -> None:
    try:
        await Agent(model).run(cases.TOO_LONG)
    except ModelContextWindowExceededError:
        return
    raise AssertionError("no error")


async def abort() -> None:
    watch = cases.Watch()
    async with Agent(model).run_stream(cases.STORY, model_settings={"max_tokens": 2000}) as result:
        async for _ in result.stream_text(delta=True, debounce_by=None):
            break
        await result.cancel()
    await asyncio.to_thread(watch.gone)


cases.run(chat, stream, tools, structured, error, abort)
