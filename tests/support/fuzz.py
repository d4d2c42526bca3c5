"""Bodies of requests that are certainly wrong: each is right but for one thing.

Nothing here asks the code under test what is wrong. A change that might leave a body right, such as
a random byte, is not made.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

CHAT = "/v1/chat/completions"
RAW = "/v1/completions"
Body = tuple[str, bytes]

NOT_NUMBERS: tuple[Any, ...] = ("1", "", [], [1], {}, {"a": 1}, True, False)
NOT_LENGTHS: tuple[Any, ...] = (*NOT_NUMBERS, -1, 1.5, 2**31, 10**30)
NOT_FLAGS: tuple[Any, ...] = ("true", "", 0, 1, 2.5, [], {})
NOT_TEXTS: tuple[Any, ...] = (0, 1.5, True, {}, {"a": "b"})
NOT_ROLES: tuple[Any, ...] = ("", "User", "bot", 1, None, [], {})
NOT_CONTENTS: tuple[Any, ...] = (1, True, {}, [1], [{}], ["Hi"])
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
    "stop": (*NOT_TEXTS, "", [""], [1], ["a", "b", "c", "d", "e"]),
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
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
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
NOT_OBJECTS = (
    *("", " ", "\n", "null", "true", "1", "-0.5", '"Hi"', "[]", "[{}]", "nul", "'a'", "{", "}"),
    *("{}{}", "{]", '{"a"}', '{"a":}', "{,}", "{'a': 1}", "undefined", "NaN", "\ufeff{}"),
    *("a=1&b=2", "<a/>"),
)


def malformed(count: int) -> list[Body]:
    """So many different ones; always the same."""
    source = random.Random(7)
    found: dict[Body, None] = dict.fromkeys(_wrong_fields())
    found |= dict.fromkeys(
        (endpoint, text.encode()) for endpoint in (CHAT, RAW) for text in NOT_OBJECTS
    )
    found |= dict.fromkeys((CHAT, b"[" * depth) for depth in (10, 1000, 100_000))
    found |= dict.fromkeys((CHAT, b'{"messages":' * depth) for depth in (10, 1000, 50_000))
    found[RAW, b'{"prompt": "' + b"a" * (2 << 20) + b'"}'] = None
    while len(found) < count:
        endpoint, body = source.choice([(CHAT, _chat(source)), (RAW, _raw(source))])
        found[endpoint, source.choice(BROKEN)(source, json.dumps(body))] = None
    # All kinds, in any order: what one leaves behind meets others.
    bodies = [*found]
    source.shuffle(bodies)
    return bodies[:count]


def _wrong_fields() -> Iterator[Body]:
    source = random.Random(3)
    for endpoint, make, more in ((CHAT, _chat, WRONG_CHAT), (RAW, _raw, WRONG_RAW)):
        for name, values in (WRONG | more).items():
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
    return text.replace('"max_tokens": 2', f'"max_tokens": {source.choice(bad)}').encode()


def _grammar(source: random.Random, text: str) -> bytes:
    """What JavaScript would take."""
    ways = (
        text.replace("}", ",}", 1) if text.count("}") == 1 else text[:-1] + ",}",
        text.replace('"max_tokens"', "max_tokens"),
        text.replace('"max_tokens"', "'max_tokens'"),
        text.replace(": ", " ", 1),
        text.replace(": ", ":: ", 1),
        "/* a */" + text,
        text[:-1] + "// a\n}",
        text.replace('"max_tokens": 2', '"max_tokens": (2)'),
        text.replace('"max_tokens": 2', '"max_tokens": 2 2'),
    )
    return source.choice(ways).encode()


BROKEN: tuple[Callable[[random.Random, str], bytes], ...] = (
    *(_cut, _with_more, _in_the_text, _number, _grammar),
)
