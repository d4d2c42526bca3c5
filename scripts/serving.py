"""Measure the overhead of serving: `python -m scripts.serving BUNDLE.epk [ROUNDS]`.

Prints one JSON object, for this machine and one run of the bundle's program:

- decode throughput, tokens/s, of one answer streamed over HTTP, and of a bare loop over ONNX
  Runtime GenAI with the same number of tokens; alternating, with the median of the rounds' ratios;
- time to first token, seconds, of a conversation's first turn, whose prompt has about 400 tokens,
  and of its second turn, sent a second after the answer or at once; medians of times and ratios.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager import console, launch
from packager.jobs import generation
from tests.support.serving import Serving

TOKENS = 256
STORY = [{"role": "user", "content": "Tell me a long story about a fox."}]
TURN_CHARACTERS = 1000
TEXT = Path(__file__).parent.parent / "README.md"
PAUSE_S = 1.0
"""Pause between requests, in which the runtime prefills its answer again and becomes idle."""


def bare(folder: Path) -> Iterator[float]:
    """Yield the decode throughput of a loop without a server, tokens/s."""
    model = generation.load(folder)
    text = ChatTemplates.of(folder).render(STORY)
    prompt = Tokenizer(folder).encode(text, special=False)
    while True:
        generator = generation.generator(model, folder, len(prompt) + TOKENS)
        generator.append_tokens(prompt)
        generator.generate_next_token()
        started, tokens = time.monotonic(), 0
        while not generator.is_done() and tokens < TOKENS - 1:
            generator.generate_next_token()
            tokens += 1
        yield tokens / (time.monotonic() - started)


class Answer(NamedTuple):
    """A streamed answer: its text and tokens, time to first token and decode time, seconds."""

    text: str
    tokens: int
    first_s: float
    decode_s: float


def stream(client: httpx.Client, messages: list[Any], tokens: int) -> Answer:
    """Stream one answer over HTTP."""
    body = {
        "messages": messages,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.monotonic()
    first = last = 0.0
    text, generated = "", 0
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data in ("", "[DONE]"):
                continue
            chunk = json.loads(data)
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    last = time.monotonic()
                    first = first or last
                    text += choice["delta"]["content"]
            if chunk.get("usage"):
                generated = chunk["usage"]["completion_tokens"]
    return Answer(text, generated, first - started, last - first)


def measure_speeds(client: httpx.Client, folder: Path, rounds: int) -> dict[str, float]:
    """Measure the decode throughput over HTTP and of the bare loop, alternating."""
    loop = bare(folder)
    pairs = []
    for _ in range(rounds):
        answer = stream(client, STORY, TOKENS)
        time.sleep(PAUSE_S)
        pairs.append(((answer.tokens - 1) / answer.decode_s, next(loop)))
    return {
        "http_tokens_per_s": round(statistics.median(pair[0] for pair in pairs), 1),
        "bare_tokens_per_s": round(statistics.median(pair[1] for pair in pairs), 1),
        "http_to_bare": round(statistics.median(http / own for http, own in pairs), 3),
    }


def measure_turns(client: httpx.Client, rounds: int, pause_s: float) -> dict[str, float]:
    """Measure the first and second turns of conversations that share no cached prefix."""
    text = TEXT.read_text(encoding="utf-8")
    pairs = []
    for number in range(rounds):
        start = int(pause_s > 0) + 2 * number
        part = text[start * 450 :][:TURN_CHARACTERS]
        messages = [{"role": "user", "content": f"Tell me in detail what this means:\n{part}"}]
        first = stream(client, messages, 60)
        time.sleep(pause_s)
        messages += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "Shorter, please."},
        ]
        second = stream(client, messages, 20)
        time.sleep(PAUSE_S)
        pairs.append((first.first_s, second.first_s))
    return {
        "first_turn_s": round(statistics.median(pair[0] for pair in pairs), 3),
        "second_turn_s": round(statistics.median(pair[1] for pair in pairs), 3),
        "second_to_first": round(statistics.median(second / first for first, second in pairs), 3),
    }


def main() -> None:
    """Print the figures."""
    release = launch.unpack_for_host(Path(sys.argv[1]))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    with (
        Serving(release.folder) as serving,
        httpx.Client(base_url=serving.url, timeout=120) as client,
    ):
        figures = {
            "streaming": measure_speeds(client, release.model_folder, rounds),
            "second_turn_after_a_second": measure_turns(client, rounds, PAUSE_S),
            "second_turn_at_once": measure_turns(client, rounds, 0),
        }
    console.result_json(figures)


if __name__ == "__main__":
    main()
