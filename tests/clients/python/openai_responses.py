"""openai: the Responses API."""

import json
from typing import Any

import cases
import openai
from openai import OpenAI

client = OpenAI(base_url=cases.V1, api_key=cases.KEY, max_retries=0)
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": cases.WEATHER_PARAMETERS,
    "strict": True,
}


def chat() -> None:
    answer = client.responses.create(model=cases.MODEL, input=cases.QUESTION)
    assert "Paris" in answer.output_text
    assert answer.status == "completed"
    assert answer.usage.input_tokens + answer.usage.output_tokens == answer.usage.total_tokens
    after = client.responses.create(
        model=cases.MODEL, input="Say it again.", previous_response_id=answer.id
    )
    assert after.previous_response_id == answer.id
    assert after.usage.input_tokens > answer.usage.input_tokens


def stream() -> None:
    whole = client.responses.create(model=cases.MODEL, input=cases.QUESTION)
    events = list(client.responses.create(model=cases.MODEL, input=cases.QUESTION, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    with client.responses.stream(model=cases.MODEL, input=cases.QUESTION) as manager:
        final = manager.get_final_response()
    assert final.output_text == whole.output_text


def tools() -> None:
    turns: list[Any] = [{"role": "user", "content": cases.WEATHER}]
    options: dict[str, Any] = {"model": cases.MODEL, "tools": [TOOL]}
    answer = client.responses.create(
        input=turns, tool_choice="required", parallel_tool_calls=False, **options
    )
    (call,) = answer.output
    assert call.type == "function_call"
    result = cases.get_weather(**json.loads(call.arguments))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": result}
    whole = client.responses.create(
        input=[*turns, *answer.output, output], tool_choice="none", **options
    )
    assert whole.output_text
    kept = client.responses.create(
        input=[output], previous_response_id=answer.id, tool_choice="none", **options
    )
    assert kept.output_text == whole.output_text


def structured() -> None:
    answer = client.responses.parse(
        model=cases.MODEL, input="Tell me of Paris.", text_format=cases.City
    )
    assert isinstance(answer.output_parsed, cases.City)


def error() -> None:
    too_long = cases.raises(
        openai.BadRequestError,
        lambda: client.responses.create(model=cases.MODEL, input=cases.TOO_LONG),
    )
    assert too_long.code == "context_length_exceeded"
    cases.raises(
        openai.APIStatusError,
        lambda: client.responses.create(
            model=cases.MODEL, input="Hi", previous_response_id="resp_nothing"
        ),
        "resp_nothing",
    )


def abort() -> None:
    watch = cases.Watch()
    with client.responses.create(model=cases.MODEL, input=cases.STORY, stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                break
    watch.gone()


cases.run(chat, stream, tools, structured, error, abort)
