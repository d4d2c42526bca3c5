"""Runs the cases of a client, printing a line of JSON for each: `{"case": ..., "fault": ...}`.

The programs beside this module run where the client is installed and this project is not. They
get the server's address and the model's name as arguments, and maybe which of the client's ways to
take.
"""

import asyncio
import json
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

URL, MODEL, WAY = (*sys.argv[1:], "")[:3]
V1 = f"{URL}/v1"
KEY = "unused"
EMBEDDING_MODEL = "all-minilm-l6-v2"

QUESTION = "Name the capital of France."
STORY = "Write a very long story about a river, with many chapters."
WEATHER = "What is the weather in Paris?"
TOO_LONG = "word " * 40_000
PATIENCE_S = 2.0
"""Time in which a request must be gone whose client stopped reading."""


def run(*cases: Callable[[], Any]) -> None:
    with asyncio.Runner() as runner:
        for case in cases:
            fault = ""
            try:
                result = case()
                if asyncio.iscoroutine(result):
                    runner.run(result)
            except Exception as error:
                # An assertion without words says which line does not hold.
                text = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
                fault = " ".join(f"{type(error).__name__}: {text}".split())[:300]
            print(json.dumps({"case": case.__name__, "fault": fault}), flush=True)


Short = Annotated[str, Field(max_length=40)]


class City(BaseModel):
    """A city."""

    name: Short
    founded: date
    size: Literal["small", "large"]
    rivers: list[Short] = Field(max_length=1)


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: name of the city.
    """
    return f"It rains in {city}."


WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name of the city."}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": WEATHER_PARAMETERS,
    },
}


def raises(kind: type[BaseException], action: Callable[[], Any], *words: str) -> Any:
    """The error that a client must raise, with these words in it."""
    try:
        action()
    except kind as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in {error}"
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


class Watch:
    """Sees that the server gives up a request once its client has gone away."""

    def __init__(self) -> None:
        self._before = self._requests()["cancelled"]

    def gone(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            requests = self._requests()
            if requests["running"] == 0 and requests["cancelled"] == self._before + 1:
                return
            assert time.monotonic() < deadline, f"the server goes on: {requests}"
            time.sleep(0.02)

    def _requests(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{URL}/v1/status") as response:
            status = json.load(response)
        return {**status["requests"], "running": status["running"]}
