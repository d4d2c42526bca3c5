"""Strings of a JSON schema, `pattern` and `format`, as regular expressions for JSON text.

Patterns are read as far as ECMA-262 and Python's `re` agree on them, and written in the syntax of
Rust (https://docs.rs/regex/latest/regex/#syntax), which the engine's grammars are in.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from device_runtime.json_schema.pattern_tree import (
    LAST,
    Anchor,
    CharSet,
    Choice,
    Node,
    PatternError,
    Ranges,
    Reader,
    Repeat,
    Sequence,
    complement,
    of_ranges,
    ordered,
)

CHARACTER = r'([^"\\\x00-\x1F\x7F]|\\["\\nrt])'
"""A character of a string in JSON text. Without \\u, which can be half of a surrogate pair."""

_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
# The 29th of February is left out, for it depends on the year.
_DATE = (
    r"[12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    r"|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": "P([0-9]{1,4}W|[0-9]{1,4}[YMD](T[0-9]{1,4}[HMS])?|T[0-9]{1,4}[HMS])",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"({_OCTET}\.){{3}}{_OCTET}",
    "ipv6": "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,4}}",
    "email": rf"[A-Za-z0-9_]{{1,32}}([.+-][A-Za-z0-9_]{{1,16}}){{0,3}}@{_LABEL}(\.{_LABEL}){{1,3}}",
    "uri": rf"https?://{_LABEL}(\.{_LABEL}){{1,4}}(/[A-Za-z0-9._~-]{{0,40}}){{0,8}}",
}
"""Formats that strings are made in. Each is narrower than its standard: what fits one is valid."""

MAX_PATTERN = 500
MAX_REPEATED_GROUPS = 10

_SURROGATES = (0xD800, 0xDFFF)
_ESCAPED = {0x0A: r"\\n", 0x0D: r"\\r", 0x09: r"\\t", 0x22: r"\\\"", 0x5C: r"\\\\"}


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A pattern as the engine takes it.

    Attributes:
        regex: Rust, of the JSON text between the quotes, all of it.
        lengths: bit n is set if there are strings of n characters; that after the limit, if there
            are longer ones.
        repeated_groups: how many; what reading a pattern takes is mostly for them.
    """

    regex: str
    lengths: int
    repeated_groups: int


@lru_cache(maxsize=256)
def read(pattern: str, limit: int) -> Pattern:
    """Read a pattern, which may match anywhere in a string unless it is anchored.

    Args:
        pattern: as in a JSON schema.
        limit: longest string of interest, in characters.

    Raises:
        PatternError: it is not a pattern, or means different things to different validators.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"it is longer than {MAX_PATTERN} characters")
    if any(ord(letter) > LAST for letter in pattern):
        raise PatternError("characters beyond U+FFFF are not supported")
    reader = Reader(pattern)
    whole = reader.whole()
    if reader.repeated_groups > MAX_REPEATED_GROUPS:
        raise PatternError(f"it repeats more than {MAX_REPEATED_GROUPS} groups")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it is not a regular expression: {error}") from None
    node = Choice(tuple(_unanchored(option) for option in _options(whole)))
    return Pattern(
        regex=_regex(node) or "",
        lengths=_lengths(node, limit),
        repeated_groups=reader.repeated_groups,
    )


def _options(node: Node) -> tuple[Node, ...]:
    """The options of a pattern at its top, groups around all of it taken off."""
    if isinstance(node, Choice):
        return tuple(inner for option in node.options for inner in _options(option))
    return (node,)


def _unanchored(node: Node) -> Node:
    """Make one option of a pattern match the whole of a string."""
    parts = node.parts if isinstance(node, Sequence) else (node,)
    begins = bool(parts) and parts[0] == Anchor("^")
    parts = parts[1:] if begins else parts
    ends = bool(parts) and parts[-1] == Anchor("$")
    parts = parts[:-1] if ends else parts
    for part in parts:
        _check_no_anchor(part)
    anything = Repeat(~of_ranges((0x00, 0x1F), (0x7F, 0x7F)), 0, None)
    return Sequence((*(() if begins else (anything,)), *parts, *(() if ends else (anything,))))


def _check_no_anchor(node: Node) -> None:
    match node:
        case Anchor(sign):
            raise PatternError(f"{sign} is supported only at the ends")
        case Sequence(parts) | Choice(parts):
            for part in parts:
                _check_no_anchor(part)
        case Repeat(part):
            _check_no_anchor(part)


def _codes(node: CharSet) -> tuple[Ranges, list[int]]:
    """Characters that JSON text shows as they are, and those that it escapes."""
    hidden = ordered(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), _SURROGATES))
    plain = complement(ordered(complement(node.sure) + hidden))
    escaped = [code for code in _ESCAPED if any(low <= code <= high for low, high in node.sure)]
    return plain, escaped


def _regex(node: Node) -> str | None:
    """Write Rust for the JSON text; None where nothing matches."""
    match node:
        case CharSet():
            plain, escaped = _codes(node)
            if plain:
                return "[" + "".join(f"\\x{{{a:X}}}-\\x{{{b:X}}}" for a, b in plain) + "]"
            return "(" + "|".join(_ESCAPED[code] for code in escaped) + ")" if escaped else None
        case Sequence(parts):
            texts = [_regex(part) for part in parts]
            return None if None in texts else "".join(filter(None, texts))
        case Choice(options):
            texts = [regex for option in options if (regex := _regex(option)) is not None]
            if not texts:
                return None
            return "(" + "|".join(filter(None, texts)) + ")" + "?" * ("" in texts)
        case Repeat(part, least, most):
            inner = _regex(part)
            if not inner or most == 0:
                return "" if inner == "" or least == 0 or most == 0 else None
            return f"({inner}){{{least},{'' if most is None else most}}}"
    raise TypeError(node)


def _lengths(node: Node, limit: int) -> int:
    """Find the lengths of the strings that match, as `Pattern` has them."""
    match node:
        case CharSet():
            return 0b10 if any(_codes(node)) else 0
        case Sequence(parts):
            lengths = 1
            for part in parts:
                lengths = _sums(lengths, _lengths(part, limit), limit)
            return lengths
        case Choice(options):
            lengths = 0
            for option in options:
                lengths |= _lengths(option, limit)
            return lengths
        case Repeat(part, least, most):
            inner = _lengths(part, limit)
            more = limit + 1 if most is None else most - least
            return _sums(_power(inner, least, limit), _power(inner | 1, more, limit), limit)
    raise TypeError(node)


def _power(lengths: int, times: int, limit: int) -> int:
    """Lengths of so many strings in a row."""
    times = min(times, limit + 1)
    if lengths == 0b11:
        return (1 << (times + 1)) - 1
    result = 1
    while times and result:
        if times & 1:
            result = _sums(result, lengths, limit)
        times >>= 1
        lengths = _sums(lengths, lengths, limit) if times else lengths
    return result


def _sums(first: int, second: int, limit: int) -> int:
    """Lengths of a string of one set and one of another in a row."""
    fewer, others = sorted((first, second), key=int.bit_count)
    sums = 0
    while fewer:
        lowest = fewer & -fewer
        sums |= others * lowest
        fewer ^= lowest
    longer = bool(sums >> (limit + 1))
    return sums & ((1 << (limit + 1)) - 1) | longer << (limit + 1)
