"""anthropic: the Messages API, as Claude's tools use it."""

import asyncio
from datetime import date
from typing import Any, Literal

import anthropic
import cases
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

client = Anthropic(base_url=cases.URL, api_key=cases.KEY, max_retries=0)
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": cases.WEATHER_PARAMETERS,
}


class Place(BaseModel):
    """The client drops bounds of texts and lists, so there are none."""

    country: Literal["France", "Spain"]
    founded: date
    large: bool


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def ask(*messages: Any, max_tokens: int = 200, **options: Any) -> Any:
    return client.messages.create(
        model=cases.MODEL, max_tokens=max_tokens, messages=messages, **options
    )


def chat() -> None:
    answer = ask(user(cases.QUESTION), system="You answer briefly.")
    (block,) = answer.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert answer.role == "assistant"
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert ask(user(cases.QUESTION), max_tokens=1).stop_reason == "max_tokens"
    stopped = ask(user(cases.QUESTION), stop_sequences=["Paris"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    marked = [{"type": "text", "text": cases.QUESTION, "cache_control": {"type": "ephemeral"}}]
    assert "Paris" in ask({"role": "user", "content": marked}).content[0].text


def stream() -> None:
    whole = ask(user(cases.QUESTION))
    events = list(ask(user(cases.QUESTION), stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    with client.messages.stream(
        model=cases.MODEL, max_tokens=200, messages=[user(cases.QUESTION)]
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


def tools() -> None:
    messages = [user(cases.WEATHER)]
    options: dict[str, Any] = {"tools": [TOOL]}
    answer = ask(
        *messages, tool_choice={"type": "any", "disable_parallel_tool_use": True}, **options
    )
    assert answer.stop_reason == "tool_use"
    (call,) = answer.content
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": cases.get_weather(**call.input)}],
    }
    messages += [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    after = ask(*messages, tool_choice={"type": "none"}, **options)
    assert after.stop_reason == "end_turn"
    assert after.content[0].text
    with client.messages.stream(
        model=cases.MODEL,
        max_tokens=200,
        messages=messages[:1],
        tool_choice={"type": "tool", "name": "get_weather"},
        **options,
    ) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.input == call.input


def runner() -> None:
    """The client's own loop over a tool, which the model may call or not."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return cases.get_weather(city)

    final = client.beta.messages.tool_runner(
        model=cases.MODEL,
        max_tokens=200,
        messages=[user(cases.WEATHER)],
        tools=[get_weather],
        max_iterations=3,
    ).until_done()
    assert final.content


def structured() -> None:
    answer = client.messages.parse(
        model=cases.MODEL,
        max_tokens=500,
        messages=[user("Tell me of Paris.")],
        output_format=Place,
    )
    assert isinstance(answer.parsed_output, Place)


def error() -> None:
    too_long: Any = cases.raises(
        anthropic.BadRequestError, lambda: ask(user(cases.TOO_LONG)), "prompt is too long"
    )
    assert too_long.body["error"]["type"] == "invalid_request_error"
    # The client has no argument for it any more.
    hot = {"temperature": 7}
    cases.raises(anthropic.BadRequestError, lambda: ask(user("Hi"), extra_body=hot), "temperature")
    unknown: Any = cases.raises(
        anthropic.NotFoundError,
        lambda: client.messages.create(model="nothing", max_tokens=9, messages=[user("Hi")]),
    )
    assert unknown.body["error"]["type"] == "not_found_error"


def abort() -> None:
    watch = cases.Watch()
    with client.messages.stream(
        model=cases.MODEL, max_tokens=2000, messages=[user(cases.STORY)]
    ) as stream:
        next(iter(stream.text_stream))
    watch.gone()


async def abort_async() -> None:
    watch = cases.Watch()
    async with AsyncAnthropic(base_url=cases.URL, api_key=cases.KEY, max_retries=0) as asynchronous:
        async with asynchronous.messages.stream(
            model=cases.MODEL, max_tokens=2000, messages=[user(cases.STORY)]
        ) as stream:
            async for _ in stream.text_stream:
                break
        await asyncio.to_thread(watch.gone)


def count_tokens() -> None:
    count = client.messages.count_tokens(model=cases.MODEL, messages=[user(cases.QUESTION)])
    usage = ask(user(cases.QUESTION)).usage
    read = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    assert count.input_tokens == read
    with_tool = client.messages.count_tokens(
        model=cases.MODEL, messages=[user(cases.QUESTION)], tools=[TOOL]
    )
    assert with_tool.input_tokens > count.input_tokens


cases.run(chat, stream, tools, runner, structured, error, abort, abort_async, count_tokens)
