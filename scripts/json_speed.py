"""Measure JSON of a schema and tool calls: `python -m scripts.json_speed URL [URL ...]`.

Asks the services at these addresses in turn, in nine rounds, for an object of 20 fields and for a
tool call, greedily, and prints for each: the median time to the whole answer, its tokens and
tokens/s, the time of the first answer, and whether all answers were the same text.
"""

import json
import statistics
import sys
import time
from collections import defaultdict
from typing import Any, NamedTuple

import httpx

ROUNDS = 9
PAUSE_S = 1.0
"""Pause before each request: a service prefills its last answer again, and becomes idle."""

TEXT = {"type": "string", "maxLength": 24}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 1000}
SWITCH = {"type": "boolean"}
LEVEL = {"enum": ["low", "medium", "high"]}

FIELDS: dict[str, Any] = {
    "device_name": TEXT,
    "serial_number": TEXT,
    "manufacturer": TEXT,
    "firmware_version": TEXT,
    "location": TEXT,
    "temperature": NUMBER,
    "humidity": NUMBER,
    "battery_level": NUMBER,
    "signal_strength": NUMBER,
    "is_online": SWITCH,
    "has_error": SWITCH,
    "priority": LEVEL,
    "maintenance_status": LEVEL,
    "last_message": TEXT,
    "error_count": NUMBER,
    "uptime_hours": NUMBER,
    "restart_required": SWITCH,
    "operator_name": TEXT,
    "department": TEXT,
    "comment": TEXT,
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _body(question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 600, "temperature": 0, **more}


SCHEMA = {"name": "sensor", "strict": True, "schema": _object(FIELDS)}
TOOL = {
    "name": "set_thermostat",
    "description": "Set the temperature of a room",
    "parameters": _object(
        {
            "room_name": TEXT,
            "temperature": NUMBER,
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "fan_speed": LEVEL,
            "eco_mode": SWITCH,
        }
    ),
    "strict": True,
}
BODIES = {
    "20 fields": _body(
        "Describe a temperature sensor in a factory, as JSON.",
        response_format={"type": "json_schema", "json_schema": SCHEMA},
    ),
    "tool call": _body(
        "Make the kitchen 21 degrees warm.",
        tools=[{"type": "function", "function": TOOL}],
        tool_choice="required",
    ),
}


class Answer(NamedTuple):
    """An answer: its text or call, tokens, and seconds until it was whole."""

    text: str
    tokens: int
    seconds: float


def ask(url: str, body: dict[str, Any]) -> Answer:
    """Send a request, and wait for the whole answer."""
    time.sleep(PAUSE_S)
    started = time.monotonic()
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
    seconds = time.monotonic() - started
    answer = response.raise_for_status().json()
    message = answer["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    text = json.dumps(calls) if calls else message["content"]
    return Answer(text, answer["usage"]["completion_tokens"], seconds)


def main(urls: list[str]) -> int:
    """Measure the services, and print a line for each and each kind of answer."""
    answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for _ in range(ROUNDS + 1):
        for name, body in BODIES.items():
            for url in urls:
                answers[name, url].append(ask(url, body))
    for (name, url), (first, *later) in answers.items():
        seconds = statistics.median(answer.seconds for answer in later)
        print(  # noqa: T201
            f"{name}, {url}: {seconds:.3f} s, {first.tokens} tokens, "
            f"{first.tokens / seconds:.1f} tokens/s, the first {first.seconds:.3f} s"
        )
    for name in BODIES:
        texts = {answer.text for url in urls for answer in answers[name, url]}
        print(f"{name}: {'the same text' if len(texts) == 1 else f'{len(texts)} texts'}")  # noqa: T201
        print(*sorted(texts), sep="\n")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
