"""A fixed corpus of odd texts and conversations, on which tokenizers and templates are compared.

The texts are made from pieces that tokenizers treat by rules of their own. Nothing is drawn at
random but by a seeded generator of this module, so every build compares the same texts.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Any

TEXTS = 2000
CONVERSATIONS = 200

_SPACES = (
    " ", "  ", "   ", " " * 7, " " * 16, " " * 31, "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t",
    "\t\t", "\v", "\f", "\x1c", "\x1f", "\x85", "\u00a0", "\u1680", "\u2003", "\u2009", "\u200b",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff",
)  # fmt: skip
_WORDS = (
    "a", "The", "and", "it's", "don't", "we'LL", "I’m", "'s", "O'Neill", "HELLO", "iPhone",
    "Straße", "garçon", "naïve", "Ångström", "İstanbul", "ﬁn", "ǅ", "ŉ", "ſtop", "x²", "Ⅷ", "½",
    "Привет", "Ελληνικά", "Հայերեն", "ქართული", "עברית", "العَرَبِيَّة", "हिन्दी", "ไทย", "ភាសា",
    "你好", "世界。", "「こんにちは」", "ｶﾀｶﾅ", "한국어", "한국", "𝕏𝔂", "𠮷野家", "ᏣᎳᎩ",
    "e\u0301", "A\u030a", "o\u0302\u0323", "ş\u0300", "\u0301", "n\u0303o\u0308", "\u1e9b\u0323",
    "\u212b", "\ufb01", "\u0958", "\u0f43", "\u2126", "\ufe0f", "\U000e0100",
    "\u034f", "😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️", "☺", "1️⃣", "🧑🏿‍🚀",
    "\u200d", "🏴\U000e0067\U000e007f", "0", "7", "42", "123",
    "1234", "12345678", "3.14159", "1,000,000", "1e-9", "٣٤", "१२", "¹²³", "+33 6 12 34 56 78",
    "2024-02-29T12:00:00Z", "0xDEADBEEF", "192.168.0.1", "v1.2.3-rc1", ".", "...", "…", "?!", "--",
    "—", "/", "//", "\\", "\\n", '"', "''", "`", "```", "#", "@", "$", "€", "%", "100%", "&amp;",
    "<b>", "</b>", "<|", "|>", "[", "]]", "{{", "}}", "(", ")", "_", "^", "*", "**", "~", "=", "==",
    "=>", "::", ";", "|", "▁", "▁▁the", "Ġ", "Ġthe", "Ċ", "<0x0A>", "##ing", "\x00", "\x01", "\x07",
    "\x1b[31m", "\x7f", "\x80", "\u00ad", "\u061c", "\u200e", "\u202e", "\u2066", "\ufff9",
    "\ufffd", "\uffff", "\ue000", "\U0010fffd", "\U0001f9ff", "\u0378", "\U000e0001", "def f():",
    "return x", "if (a&&b){", "for i in range(10):", "x+=1;", "SELECT * FROM t;", "<html>",
    "</think>", "<think>", "\\frac{1}{2}", "$x_i$", "#include <stdio.h>", "C:\\Users\\x",
    "aGVsbG8gd29ybGQ=", "eyJhbGciOiJIUzI1NiJ9.e30", "c0ffee" * 6, "A" * 40, "ab" * 33, "na" * 50,
    "https://example.com/a?b=c&d=%20#e", "mailto:a.b+c@d.example", "/usr/local/bin", "a_b-c.d",
    "Donaudampfschifffahrtsgesellschaft", "antidisestablishmentarianism", "snake_case", "camelCase",
    "=" * 20, "-" * 80, "!" * 9, "a" * 100, "。" * 5, "😀" * 4, "\u0301" * 3, "the " * 12,
)  # fmt: skip
_ENDS = ("", "a", ".", "\n", "1", "中", "é", "😀")
_ROLES = ("user", "assistant")
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather of a city: "now" & <later>, in °C.',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, such as São Paulo"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": 'Zürich "HB"', "days": 2}},
}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT = {
    "role": "tool",
    "tool_call_id": "call00001",
    "name": "get_weather",
    "content": '{"sky": "clear", "°C": -3.5}',
}


def texts(tokens: Sequence[str]) -> list[str]:
    """Return `TEXTS` different odd texts.

    Args:
        tokens: texts of the tokenizer's added tokens, which a user may write as well.
    """
    different: dict[str, None] = {}
    source = _all_texts(tokens)
    while len(different) < TEXTS:
        different[next(source)] = None
    return list(different)


def conversations(tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Return `CONVERSATIONS` conversations: `messages` and perhaps `tools` of a chat template."""
    draw = _Draw(7)
    chats: list[dict[str, Any]] = []
    odd = texts(tokens)
    while len(chats) < CONVERSATIONS:
        number = len(chats)
        turns: list[dict[str, Any]] = []
        if number % 4 == 1:
            turns.append({"role": "system", "content": draw.of(odd) if number % 8 == 1 else ""})
        for turn in range(1 + 2 * draw.below(3)):
            content = draw.of(odd) if draw.below(8) else ""
            if turn % 2 and draw.below(3) == 0:
                content = f"<think>\n{draw.of(odd)}\n</think>\n\n{content}"
            turns.append({"role": _ROLES[turn % 2], "content": content})
        if number % 5 == 4:
            with_calls = number % 10 == 9
            turns += [_CALLED, {**_RESULT, "content": draw.of(odd)}] if with_calls else []
            chats.append({"messages": turns, "tools": [_TOOL]})
        else:
            chats.append({"messages": turns})
    return chats


def _all_texts(tokens: Sequence[str]) -> Iterator[str]:
    """Yield odd texts without an end: first by rule, then drawn."""
    yield from ("", "def f():\n    a = 1\n    \n    return a\n", "\n \n\t\n  x")
    yield from chain.from_iterable(zip(_WORDS, (f" {word}" for word in _WORDS), strict=True))
    draw = _Draw(1)
    for token in (draw.of(tokens) for _ in range(40 if tokens else 0)):
        yield from (token, f"a{token} b", f" {token}\n{token}", token[:-1])
    for space, end in product(_SPACES, _ENDS):
        yield f"a{space}{end}"
    pools = (_SPACES, _SPACES, _WORDS, _WORDS, _WORDS, tuple(tokens[:50]) or _WORDS)
    while True:
        # Every third text is white space, letters and line ends alone: where most rules meet.
        some = (_SPACES[:15], _ENDS) if draw.below(3) == 0 else pools
        yield "".join(draw.of(draw.of(some)) for _ in range(2 + draw.below(7)))


class _Draw:
    """A generator of numbers that is the same in every version of Python (Lehmer, 1951)."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        """Return a number from 0 on, below a bound."""
        self._state = self._state * 48271 % 0x7FFFFFFF
        return self._state % bound

    def of(self, things: Sequence[Any]) -> Any:
        """Return one of some things."""
        return things[self.below(len(things))]
