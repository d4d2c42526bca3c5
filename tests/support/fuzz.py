"""Bodies of requests that are certainly wrong: each is right but for one thing.

Nothing here asks the code under test what is wrong. A change that might leave a body right, such as
a random byte, is not made.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import fuzz_images

CHAT = "/v1/chat/completions"
RAW = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
OLLAMA_CHAT = "/api/chat"
GENERATE = "/api/generate"
SHOW = "/api/show"
Body = tuple[str, bytes]

NOT_NUMBERS: tuple[Any, ...] = ("1", "", [], [1], {}, {"a": 1}, True, False)
NOT_LENGTHS: tuple[Any, ...] = (*NOT_NUMBERS, -1, 1.5, 2**31, 10**30)
NOT_FLAGS: tuple[Any, ...] = ("true", "", 0, 1, 2.5, [], {})
NOT_TEXTS: tuple[Any, ...] = (0, 1.5, True, {}, {"a": "b"})
NOT_ROLES: tuple[Any, ...] = ("", "User", "bot", 1, None, [], {})
NOT_CONTENTS: tuple[Any, ...] = (1, True, {}, [1], [{}], ["Hi"])
NOT_STRINGS: tuple[Any, ...] = (1, True, {}, [], ["Hi"])
NOT_FORMS: tuple[Any, ...] = (1, "a", [], {}, {"name": ""})
NOT_SCHEMAS: tuple[Any, ...] = (1, "a", [], {"type": "nothing"}, {"$ref": "#/no"}, {"not": {}})
NOT_FUNCTIONS: tuple[Any, ...] = (1, "f", [], {}, {"name": "a b"})
# Field: values of a wrong type, and values of the right type that are out of range.
WRONG: dict[str, tuple[Any, ...]] = {
    "n": (*NOT_NUMBERS, 0, -3, 17, 2.5, 10**400),
    "temperature": (*NOT_NUMBERS, -0.1, 2.1, 1e300),
    "top_p": (*NOT_NUMBERS, -0.01, 1.01),
    "top_k": (*NOT_NUMBERS, -1, 0.5, 2**31),
    "min_p": (*NOT_NUMBERS, -1, 1.5),
    "seed": (*NOT_NUMBERS, 2**64, -(2**64), 0.5),
    "frequency_penalty": (*NOT_NUMBERS, -2.1, 3),
    "presence_penalty": (*NOT_NUMBERS, -3, 2.01),
    "repetition_penalty": (*NOT_NUMBERS, 0, -1, 11),
    "num_beams": (*NOT_NUMBERS, 0, 9, 1.5),
    "stream": NOT_FLAGS,
    "stream_options": ("x", 1, [], {"include_usage": 1}, {"other": True}),
    "logit_bias": (1, "a", [], {"a": 1}, {"-1": 1}, {"1.5": 1}, {"1": 101}, {"1": "a"}, {"": 0}),
    "stop": (*NOT_TEXTS, "", [""], [1], ["a"] * 17),
    "model": (*NOT_TEXTS, [], "gpt-unknown", "tiny:nobody", "a" * 5000, "\x00"),
}
WRONG_CHAT: dict[str, tuple[Any, ...]] = {
    "messages": (
        *(*NOT_TEXTS, "Hi", None, [], [1], ["Hi"], [None], [[]], [{}], [{"content": "Hi"}]),
        *([{"role": role, "content": "Hi"}] for role in NOT_ROLES),
        *([{"role": "user", "content": text}] for text in NOT_CONTENTS),
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "Hi", "image": "x"}],
        *fuzz_images.IN_CHAT,
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 1}]}],
        [{"role": "user", "content": "Hi", "tool_calls": [{}]}],
        [{"role": "tool", "content": "Hi"}],
        [{"role": "tool", "content": "Hi", "tool_call_id": "nobody"}],
        [{"role": "assistant", "tool_calls": []}],
        [{"role": "assistant", "tool_calls": [{"id": "", "type": "function"}]}],
        [{"role": "user", "content": "Hi"}] * 1001,
        [{"role": "user", "content": "long " * 2000}],
    ),
    "max_tokens": (*NOT_LENGTHS, 0),
    "max_completion_tokens": (*NOT_LENGTHS, 0),
    "logprobs": NOT_FLAGS,
    "top_logprobs": (*NOT_NUMBERS, -1, 21, 5),
    "parallel_tool_calls": NOT_FLAGS,
    "response_format": (
        *("json", 1, [], {}, {"type": "xml"}, {"type": "json_schema"}),
        *({"type": "json_schema", "json_schema": form} for form in NOT_FORMS),
        *(
            {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
            for schema in NOT_SCHEMAS
        ),
    ),
    "tools": (
        *(1, "a", {}, [1], [{}], [None], [{"type": "function"}], [{"type": "code_interpreter"}]),
        *([{"type": "function", "function": f}] for f in NOT_FUNCTIONS),
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
        [{"type": "function", "function": {"name": f"f{number}"}} for number in range(129)],
        [{"type": "function", "function": {"name": "f"}}] * 2,
    ),
    "tool_choice": (1, "any", [], {}, "required", {"type": "function", "function": {"name": "f"}}),
    "functions": ([{}], 1, "a"),
    "function_call": ({"name": "f"}, 1, "f"),
    "modalities": (["audio"], "text", 1),
    "store": (True, 1),
    "audio": ({"voice": "a"}, 1),
}
WRONG_RAW: dict[str, tuple[Any, ...]] = {
    "max_tokens": NOT_LENGTHS,
    "prompt": (
        *(*NOT_TEXTS, None, "", [], [""], ["a", ""], ["a", 1], [1, "a"], [-1], [1.5], [288]),
        *([[]], [[1], []], [[-1]], [[[1]]], [True], ["a"] * 129, [[1]] * 129, "long " * 2000),
    ),
    "echo": NOT_FLAGS,
    "logprobs": (*NOT_NUMBERS, -1, 21),
    "best_of": (*NOT_NUMBERS, 2),
    "suffix": (1, "a", []),
}
WRONG_RESPONSE: dict[str, tuple[Any, ...]] = {
    "input": (
        *(*NOT_TEXTS, None, [], [1], ["Hi"], [None], [[]], [{}], [{"role": "user"}]),
        *([{"role": role, "content": "Hi"}] for role in NOT_ROLES),
        *([{"role": "user", "content": text}] for text in NOT_CONTENTS),
        *fuzz_images.IN_INPUT,
        [{"role": "user", "content": [{"type": "input_text", "text": 1}]}],
        [{"type": "function_call_output", "call_id": "nobody", "output": "x"}],
        [{"type": "function_call", "call_id": "a", "name": "a b", "arguments": "{}"}],
        [{"type": "item_reference", "id": "nobody"}],
        [{"type": "web_search_call", "id": "a"}],
    ),
    "instructions": (1, [], {}),
    "max_output_tokens": (*NOT_LENGTHS, 0),
    "model": WRONG["model"],
    "previous_response_id": (1, [], {}, "resp_nobody"),
    "store": NOT_FLAGS,
    "stream": NOT_FLAGS,
    "temperature": WRONG["temperature"],
    "text": (
        *(1, "json", [], {"format": "json"}, {"format": {"type": "xml"}}),
        *({"format": {"type": "json_schema", "name": "a", "schema": s}} for s in NOT_SCHEMAS),
    ),
    "tool_choice": (1, "any", [], {}, "required", {"type": "function", "name": "f"}),
    "tools": (
        *(1, "a", {}, [1], [{}], [None], [{"type": "function"}], [{"type": "web_search"}]),
        [{"type": "function", "name": "a b", "parameters": {}}],
        [{"type": "function", "name": "f", "parameters": {"type": "array"}}],
        [{"type": "function", "name": "f", "parameters": {}}] * 2,
    ),
    "top_p": WRONG["top_p"],
    "background": (True, 1, "a"),
    "conversation": ("a", 1, {"id": "a"}),
}
WRONG_COUNT: dict[str, tuple[Any, ...]] = {
    "model": (*WRONG["model"], None, ""),
    "messages": (
        *(*NOT_TEXTS, "Hi", None, [], [1], ["Hi"], [None], [[]], [{}], [{"content": "Hi"}]),
        *([{"role": role, "content": "Hi"}] for role in NOT_ROLES),
        *([{"role": "user", "content": text}] for text in (*NOT_CONTENTS, None)),
        *fuzz_images.IN_MESSAGES,
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}],
        [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "nobody"}]}],
        [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
        [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi", "image": "x"}],
    ),
    "system": (1, True, {}, [1], [{}], [{"type": "image"}], [{"type": "text", "text": 1}]),
    "tools": (
        *(1, "a", {}, [1], [{}], [None], [{"name": "f"}], [{"type": "bash_20250124"}]),
        [{"name": "a b", "input_schema": {"type": "object"}}],
        [{"name": "f", "input_schema": {"type": "array"}}],
        [{"name": "f", "input_schema": {"type": "object"}}] * 2,
    ),
    "tool_choice": (1, "any", [], {}, {"type": "any"}, {"type": "tool", "name": "f"}),
    "thinking": (1, "on", [], {}, {"type": "on"}, {"type": "enabled", "budget_tokens": 9}),
    "output_config": (
        *(1, "a", [], {"effort": "most"}, {"format": {"type": "text"}}),
        *({"format": {"type": "json_schema", "schema": schema}} for schema in NOT_SCHEMAS),
    ),
    "mcp_servers": ([{}], 1, "a"),
    "container": ("a", 1, {}),
}
WRONG_MESSAGE: dict[str, tuple[Any, ...]] = {
    "max_tokens": (*NOT_LENGTHS, None, 0),
    "stop_sequences": (*NOT_TEXTS, "x", [""], [1], ["a"] * 17),
    "stream": NOT_FLAGS,
    "temperature": (*NOT_NUMBERS, -0.1, 1.1),
    "top_p": WRONG["top_p"],
    "top_k": WRONG["top_k"],
}
WRONG_OLLAMA: dict[str, tuple[Any, ...]] = {
    "model": (*WRONG["model"], None, "", "tiny:oldest"),
    "stream": NOT_FLAGS,
    "format": (1, "xml", [], {"type": "nothing"}, {"$ref": "#/no"}, {"not": {}}),
    "options": (
        *(1, "a", [], {"mirostat": 2}, {"unknown": 1}),
        *({"num_predict": length} for length in (*NOT_NUMBERS, -3, 1.5, 2**31)),
        *({"temperature": number} for number in (*NOT_NUMBERS, -0.1, 2.1)),
        *({"top_k": number} for number in WRONG["top_k"]),
        *({"stop": text} for text in WRONG["stop"]),
        *({"seed": number} for number in WRONG["seed"]),
        *({"repeat_penalty": number} for number in WRONG["repetition_penalty"]),
    ),
    "think": (0, "on", [], {}, True, "high"),
    "logprobs": NOT_FLAGS,
    "top_logprobs": (*NOT_NUMBERS, -1, 21, 5),
    "truncate": (True, 1),
}
WRONG_OLLAMA_CHAT: dict[str, tuple[Any, ...]] = {
    "messages": (
        *(*NOT_TEXTS, "Hi", [1], ["Hi"], [None], [[]], [{}], [{"content": "Hi"}]),
        *([{"role": role, "content": "Hi"}] for role in NOT_ROLES),
        *([{"role": "user", "content": text}] for text in NOT_STRINGS),
        *fuzz_images.IN_OLLAMA,
        [{"role": "user", "content": "Hi", "tool_calls": [{}]}],
        [{"role": "user", "content": "Hi"}] * 1001,
        [{"role": "user", "content": "long " * 2000}],
    ),
    "tools": (
        *(1, "a", {}, [1], [{}], [None], [{"type": "function"}], [{"type": "code"}]),
        *([{"type": "function", "function": f}] for f in NOT_FUNCTIONS),
        [{"function": {"name": "f", "parameters": {"type": "array"}}}],
        [{"function": {"name": "f"}}] * 2,
    ),
}
WRONG_GENERATE: dict[str, tuple[Any, ...]] = {
    "prompt": (*NOT_TEXTS, [], ["a"], "long " * 2000),
    "system": (1, [], {}),
    "raw": NOT_FLAGS,
    "images": fuzz_images.IN_GENERATE,
    "suffix": ("a", 1),
}
WRONG_SHOW: dict[str, tuple[Any, ...]] = {
    "model": (*WRONG["model"], None, ""),
    "system": ("a", 1),
    "template": ("a", 1),
}
NOT_OBJECTS = (
    *("", " ", "\n", "null", "true", "1", "-0.5", '"Hi"', "[]", "[{}]", "nul", "'a'", "{", "}"),
    *("{}{}", "{]", '{"a"}', '{"a":}', "{,}", "{'a': 1}", "undefined", "NaN", "\ufeff{}"),
    *("a=1&b=2", "<a/>"),
)


def malformed(count: int) -> list[Body]:
    """So many different ones; always the same."""
    source = random.Random(7)
    found: dict[Body, None] = dict.fromkeys(_wrong_fields())
    found |= dict.fromkeys((endpoint, text.encode()) for endpoint in RIGHT for text in NOT_OBJECTS)
    found |= dict.fromkeys((CHAT, b"[" * depth) for depth in (10, 1000, 100_000))
    found |= dict.fromkeys((CHAT, b'{"messages":' * depth) for depth in (10, 1000, 50_000))
    found[RAW, b'{"prompt": "' + b"a" * (2 << 20) + b'"}'] = None
    while len(found) < count:
        endpoint = source.choice([*LIMITED])
        body = RIGHT[endpoint](source)
        found[endpoint, source.choice(BROKEN)(source, json.dumps(body))] = None
    # All kinds, in any order: what one leaves behind meets others.
    bodies = [*found]
    source.shuffle(bodies)
    return bodies[:count]


def _wrong_fields() -> Iterator[Body]:
    source = random.Random(3)
    for endpoint, wrong in WRONG_FIELDS.items():
        make = RIGHT[endpoint]
        for name, values in wrong.items():
            for value in values:
                body = {**make(source), name: value}
                yield endpoint, json.dumps(body).encode()
        for name in ("Messages", "max_token", "", "x" * 300, "__proto__", "temperature ", "é"):
            yield endpoint, json.dumps({**make(source), name: 1}).encode()
    yield CHAT, json.dumps(_raw(source)).encode()
    yield RAW, json.dumps(_chat(source)).encode()


def _chat(source: random.Random) -> dict[str, Any]:
    """A body that is right."""
    return {"messages": [{"role": "user", "content": _words(source)}], **_options(source)}


def _raw(source: random.Random) -> dict[str, Any]:
    return {"prompt": _words(source), **_options(source)}


def _response(source: random.Random) -> dict[str, Any]:
    return {"input": _words(source), "max_output_tokens": 2}


def _message(source: random.Random) -> dict[str, Any]:
    return _count(source) | {"max_tokens": 2}


def _count(source: random.Random) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": _words(source)}]}


def _ollama_chat(source: random.Random) -> dict[str, Any]:
    return _count(source) | {"options": {"num_predict": 2}}


def _generate(source: random.Random) -> dict[str, Any]:
    return {"model": "tiny", "prompt": _words(source), "options": {"num_predict": 2}}


def _show(source: random.Random) -> dict[str, Any]:
    return {"model": "tiny"}


RIGHT: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    CHAT: _chat,
    RAW: _raw,
    RESPONSES: _response,
    MESSAGES: _message,
    COUNT: _count,
    OLLAMA_CHAT: _ollama_chat,
    GENERATE: _generate,
    SHOW: _show,
}
"""Functions that make a right body, by endpoint."""
LIMITED = [endpoint for endpoint in RIGHT if endpoint not in (COUNT, SHOW)]
"""Endpoints whose right bodies have a limit of tokens, which `BROKEN` changes."""
WRONG_FIELDS = {
    CHAT: WRONG | WRONG_CHAT,
    RAW: WRONG | WRONG_RAW,
    RESPONSES: WRONG_RESPONSE,
    MESSAGES: WRONG_COUNT | WRONG_MESSAGE,
    COUNT: WRONG_COUNT,
    OLLAMA_CHAT: WRONG_OLLAMA | WRONG_OLLAMA_CHAT,
    GENERATE: WRONG_OLLAMA | WRONG_GENERATE,
    SHOW: WRONG_SHOW,
}


def _options(source: random.Random) -> dict[str, Any]:
    options = {"temperature": 0.5, "top_p": 0.9, "seed": source.randrange(1000), "stop": ["x"]}
    names = source.sample(sorted(options), source.randint(0, len(options)))
    return {"max_tokens": 2, **{name: options[name] for name in names}}


def _words(source: random.Random) -> str:
    return " ".join(source.choices(("Hi", "é", "日本", "why", "\n", '"', "\\"), k=5))


def _cut(source: random.Random, text: str) -> bytes:
    """What is left of an object without its end is no JSON."""
    data = text.encode()
    return data[: source.randrange(1, len(data))]


def _with_more(source: random.Random, text: str) -> bytes:
    return (text + source.choice(("}", "]", ",", "{}", "x", "\x00", "null"))).encode()


def _in_the_text(source: random.Random, text: str) -> bytes:
    """Into the text of the prompt: bytes that are no UTF-8, and escapes that JSON has not."""
    bad = (b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\n", b"\x00", b"\x1f",
           b"\\x41", b"\\u12", b"\\uZZZZ", b"\\ud800", b"\\udc00x")  # fmt: skip
    data = text.encode()
    place = data.index(b"Hi") if b"Hi" in data else data.index(b'": "') + 4
    return data[:place] + source.choice(bad) + data[place:]


_LIMIT = re.compile(r'"(max_tokens|max_output_tokens|num_predict)": 2\b')


def _number(source: random.Random, text: str) -> bytes:
    """In place of a number: what looks like one in other languages."""
    bad = (
        "NaN",
        "-Infinity",
        "Infinity",
        "01",
        "+1",
        ".5",
        "1.",
        "0x10",
        "1e",
        "1e999",
        "--1",
        "1_000",
        "٣",
    )
    return _LIMIT.sub(rf'"\1": {source.choice(bad)}', text).encode()


def _grammar(source: random.Random, text: str) -> bytes:
    """What JavaScript would take."""
    ways = (
        text.replace("}", ",}", 1) if text.count("}") == 1 else text[:-1] + ",}",
        _LIMIT.sub(r"\1: 2", text),
        _LIMIT.sub(r"'\1': 2", text),
        text.replace(": ", " ", 1),
        text.replace(": ", ":: ", 1),
        "/* a */" + text,
        text[:-1] + "// a\n}",
        _LIMIT.sub(r'"\1": (2)', text),
        _LIMIT.sub(r'"\1": 2 2', text),
    )
    return source.choice(ways).encode()


BROKEN: tuple[Callable[[random.Random, str], bytes], ...] = (
    *(_cut, _with_more, _in_the_text, _number, _grammar),
)
