"""instructor: objects by tools (its default) and by JSON schemas."""

from typing import Any

import cases
import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel, Field

openai_client = openai.OpenAI(base_url=cases.V1, api_key=cases.KEY, max_retries=0)
by_tools = instructor.from_openai(openai_client)
by_schema = instructor.from_openai(openai_client, mode=instructor.Mode.JSON_SCHEMA)
QUESTION: Any = [{"role": "user", "content": "Tell me of Paris."}]


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=40)
    rain: bool


def chat() -> None:
    answer = by_tools.create(
        model=cases.MODEL,
        response_model=None,
        messages=[{"role": "user", "content": cases.QUESTION}],
    )
    assert "Paris" in answer.choices[0].message.content


def stream() -> None:
    partial = list(
        by_schema.create_partial(model=cases.MODEL, response_model=Weather, messages=QUESTION)
    )
    assert len(partial) > 1
    whole = by_schema.create(model=cases.MODEL, response_model=Weather, messages=QUESTION)
    assert partial[-1].model_dump() == whole.model_dump()


def tools() -> None:
    """A call forced by its name; its arguments become the object."""
    weather, answer = by_tools.create_with_completion(
        model=cases.MODEL, response_model=Weather, messages=QUESTION
    )
    assert isinstance(weather, Weather)
    (call,) = answer.choices[0].message.tool_calls
    turns: Any = [
        *QUESTION,
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "name": "Weather", "content": "Yes."},
        {"role": "user", "content": "And in Rome?"},
    ]
    after = by_tools.create(model=cases.MODEL, response_model=Weather, messages=turns)
    assert isinstance(after, Weather)


def structured() -> None:
    for client in (by_tools, by_schema):
        city = client.create(
            model=cases.MODEL, response_model=cases.City, messages=QUESTION, max_retries=0
        )
        assert isinstance(city, cases.City)


def error() -> None:
    cases.raises(
        InstructorRetryException,
        lambda: by_schema.create(
            model=cases.MODEL,
            response_model=Weather,
            messages=[{"role": "user", "content": cases.TOO_LONG}],
            max_retries=0,
        ),
        "context_length_exceeded",
    )


def abort() -> None:
    """By a timeout: the client reads whole answers, streamed ones too."""

    class Story(BaseModel):
        text: str = Field(min_length=1000)

    watch = cases.Watch()
    cases.raises(
        InstructorRetryException,
        lambda: by_schema.create(
            model=cases.MODEL,
            response_model=Story,
            messages=QUESTION,
            max_retries=0,
            timeout=0.5,
        ),
    )
    watch.gone()


cases.run(chat, stream, tools, structured, error, abort)
