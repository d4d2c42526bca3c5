"""Servers, as clients see them: start, memory, streams, JSON, many requests, conversations."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from device_runtime.processor import cores
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager import cache
from packager.kit import choose
from scripts.bench import client
from scripts.bench.engines import contestant
from scripts.bench.llama import Llama
from scripts.bench.models import Form, Model
from scripts.bench.rounds import MeasureRound, Round, in_turn
from scripts.bench.servers import Server
from tests.support import releases

KIT = "linux-x86_64-cpu"
CONTEXT = 2048
SLOTS = 8
PAUSE_S = 1.0
"""Pause after an answer, in which edgepack prefills it again and becomes idle."""
STORY = "Tell me a long story about a fox."
STREAMED = 192
"""Tokens of a streamed answer."""
TURN_TOKENS, SECOND_TOKENS = 48, 8
TOGETHER_TOKENS = 48
PERSON = "Invent a person and describe the person as JSON."
COUNT = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{f"flag_{number}": {"type": "boolean"} for number in range(4)},
        **{f"count_{number}": COUNT for number in range(6)},
        **{f"colour_{number}": {"enum": ["red", "green", "blue"]} for number in range(5)},
        **{f"word_{number}": {"type": "string", "pattern": "^[a-z]{3,8}$"} for number in range(5)},
    },
    "additionalProperties": False,
}
SCHEMA["required"] = list(SCHEMA["properties"])


class Contender(NamedTuple):
    """A server that takes part: its name, its command and its variables."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = {}

    def server(self) -> Server:
        """Return the server, not started yet."""
        return Server(self.command, self.environment)


@contextmanager
def contenders(
    model: Model, llama: Llama, *, context: int, slots: int
) -> Iterator[list[Contender]]:
    """Yield the servers: edgepack's frozen program, llama.cpp's and that of its Python bindings.

    They serve the first form of the plan, of each runtime.

    Args:
        model: the model.
        llama: llama.cpp.
        context: length of prompt and answer together, tokens.
        slots: number of requests that llama.cpp runs at once.
    """
    ours, theirs = first_forms(model)
    program = choose.ensure(KIT).folder / "edgepack-runtime"
    with tempfile.TemporaryDirectory(dir=cache.root(), prefix=".bench-") as scratch:
        release = releases.release(Path(scratch, "release"), ours.path, context_length=context)
        yield [
            Contender(
                "edgepack",
                [
                    *(program, "serve", "--release", release.folder),
                    *("--listen", "127.0.0.1:{port}", "--threads", str(cores())),
                ],
            ),
            Contender(
                "llama-server",
                llama.server(theirs.path, context=context, threads=cores(), slots=slots),
                llama.environment,
            ),
            Contender(
                "llama_cpp.server",
                llama.python_server(theirs.path, context=context, threads=cores()),
                llama.environment,
            ),
        ]


def first_forms(model: Model) -> tuple[Form, Form]:
    """Return the first forms of edgepack and of llama.cpp: those that are served."""
    (ours, *_) = (form for form in model.forms if form.runtime == "edgepack")
    (theirs, *_) = (form for form in model.forms if form.runtime == "llama.cpp")
    return ours, theirs


@contextmanager
def start(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """Time from the start of a server to its first token; its memory after a conversation."""
    long, count = model.plan.second
    ours, _ = first_forms(model)
    words = _words(model, long)
    # Random weights may end an answer at once, or choose tokens without a text.
    told = {"logit_bias": {str(_token(model, " the")): 100}} if model.random else {}
    with contenders(model, llama, context=long + count + 256, slots=1) as servers:

        def measure(number: int) -> Round:
            figures: Round = {}
            for contender in in_turn(servers, number):
                with contender.server() as server:
                    answer = server.first_answer(_chat("Hi", 4, **told))
                    first_s = answer.first - server.started
                    long_answer = client.chat(server.port, _chat(words, count, **told))
                    time.sleep(PAUSE_S)
                    memory = server.memory()
                figures[contender.name] = {
                    "start_s": first_s,
                    "resident": memory.resident,
                    "anonymous": memory.anonymous,
                }
                if contender.name == "edgepack":
                    tokens = long_answer.prompt_tokens + long_answer.tokens
                    figures["edgepack"]["file_and_cache"] = ours.size + ours.cache_bytes * tokens
            return figures

        yield measure


def _words(model: Model, tokens: int) -> str:
    """Return a text of about so many tokens, less than these."""
    return _tokenizer(model).decode(model.prompt(1, tokens - 32))


def _token(model: Model, word: str) -> int:
    """Return the first token of a word."""
    return _tokenizer(model).encode(word, special=False)[0]


def _tokenizer(model: Model) -> Tokenizer:
    return Tokenizer(first_forms(model)[0].path)


def _chat(content: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, **more}


@contextmanager
def _running(
    model: Model, llama: Llama, *, slots: int = 1, names: Sequence[str]
) -> Iterator[list[tuple[str, Server]]]:
    """Yield running servers of these names, each of which has answered."""
    with (
        contenders(model, llama, context=CONTEXT, slots=slots) as servers,
        ExitStack() as stack,
    ):
        running = []
        for contender in servers:
            if contender.name in names:
                server = stack.enter_context(contender.server())
                server.ready()
                running.append((contender.name, server))
        yield running


@contextmanager
def http(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """One answer streamed over HTTP, and the bare loop over the same model folder."""
    names = ("edgepack", "llama-server", "llama_cpp.server")
    ours, _ = first_forms(model)
    loop = Form(runtime="onnxruntime-genai", kind="loop", path=ours.path, size=ours.size)
    with (
        _running(model, llama, names=names) as servers,
        contestant(loop, llama) as bare,
    ):
        bare.load(ours.path, CONTEXT, cores())
        bare.run(model.prompt(0, 16), 4)

        def measure(number: int) -> Round:
            figures: Round = {}
            for name, server in in_turn([*servers, ("loop", None)], number):
                if server is None:
                    run = bare.run(model.prompt(0, 40), STREAMED - 1)
                    figures[name] = {"tokens_per_s": run.tokens / run.decode_s}
                    continue
                answer = client.chat(server.port, _chat(STORY, STREAMED))
                figures[name] = {"tokens_per_s": answer.tokens_per_s, "first_s": answer.first_s}
                time.sleep(PAUSE_S)
            return figures

        yield measure


@contextmanager
def structured(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """JSON after a schema with 20 fields."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    with _running(model, llama, names=("edgepack", "llama-server")) as servers:

        def measure(number: int) -> Round:
            figures: Round = {}
            for name, server in in_turn(servers, number):
                answer = client.chat(server.port, _chat(PERSON, 600, response_format=form))
                json.loads(answer.text)
                seconds = answer.last - answer.started
                figures[name] = {
                    "seconds": seconds,
                    "tokens": answer.tokens,
                    "tokens_per_s": answer.tokens / seconds,
                }
                time.sleep(PAUSE_S)
            return figures

        yield measure


@contextmanager
def together(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """Eight requests at once, and one alone: tokens a second in total, prompts included."""
    with _running(model, llama, slots=SLOTS, names=("edgepack", "llama-server")) as servers:

        def measure(number: int) -> Round:
            figures: Round = {}
            for name, server in in_turn(servers, number):
                figures[name] = {}
                for count in (1, SLOTS):
                    bodies = [
                        _chat(f"Story {number}.{count}.{index}: {STORY}", TOGETHER_TOKENS)
                        for index in range(count)
                    ]
                    answers = client.chats(server.port, bodies)
                    begin = min(answer.started for answer in answers)
                    elapsed = max(answer.last for answer in answers) - begin
                    tokens = sum(answer.tokens for answer in answers)
                    figures[name]["one" if count == 1 else "eight"] = tokens / elapsed
                    time.sleep(PAUSE_S)
            return figures

        yield measure


@contextmanager
def turns(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """Time to first token of a conversation's first turn and of its second, a second later."""
    long, _ = model.plan.second
    with _running(model, llama, names=("edgepack", "llama-server")) as servers:

        def measure(number: int) -> Round:
            figures: Round = {}
            for name, server in in_turn(servers, number):
                text = f"Number {number}. Explain: {_words(model, long)}"
                first = client.chat(server.port, _chat(text, TURN_TOKENS))
                time.sleep(PAUSE_S)
                body = _chat(text, SECOND_TOKENS)
                body["messages"] += [
                    {"role": "assistant", "content": first.text},
                    {"role": "user", "content": "Shorter, please."},
                ]
                second = client.chat(server.port, body)
                time.sleep(PAUSE_S)
                figures[name] = {"first_turn_s": first.first_s, "second_turn_s": second.first_s}
            return figures

        yield measure
