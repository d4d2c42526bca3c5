"""OpenAI Agents SDK: its default, the Responses API, or chat completions."""

import asyncio

import cases
import openai
from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)

set_tracing_disabled(True)
set_default_openai_client(openai.AsyncOpenAI(base_url=cases.V1, api_key=cases.KEY, max_retries=0))
if cases.WAY == "chat":
    set_default_openai_api("chat_completions")


def agent(**options: object) -> Agent:
    return Agent(name="Guide", model=cases.MODEL, **options)


async def chat() -> None:
    result = await Runner.run(agent(), cases.QUESTION)
    assert "Paris" in result.final_output
    assert result.context_wrapper.usage.output_tokens > 0


async def stream() -> None:
    whole = await Runner.run(agent(), cases.QUESTION)
    result = Runner.run_streamed(agent(), cases.QUESTION)
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == whole.final_output
    assert result.final_output == whole.final_output


async def tools() -> None:
    """The tool must be called first; the client itself then lets the model answer."""
    called = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return cases.get_weather(city)

    result = await Runner.run(
        agent(
            tools=[get_weather],
            model_settings=ModelSettings(tool_choice="required", parallel_tool_calls=False),
        ),
        cases.WEATHER,
    )
    assert called
    assert isinstance(result.final_output, str)


async def structured() -> None:
    result = await Runner.run(agent(output_type=cases.City), "Tell me of Paris.")
    assert isinstance(result.final_output, cases.City)


async def error() -> None:
    try:
        await Runner.run(agent(), cases.TOO_LONG)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
    else:
        raise AssertionError("no error")


async def abort() -> None:
    watch = cases.Watch()
    result = Runner.run_streamed(agent(model_settings=ModelSettings(max_tokens=2000)), cases.STORY)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            result.cancel()
    await asyncio.to_thread(watch.gone)


cases.run(chat, stream, tools, structured, error, abort)
