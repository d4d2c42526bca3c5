"""The strings of a JSON schema, `pattern` and `format`, as regular expressions for JSON text.

Patterns are read as far as ECMA-262 and Python's `re` agree on them, and written in the syntax of
Rust (https://docs.rs/regex/latest/regex/#syntax), which the engine's grammars are in.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

CHARACTER = r'([^"\\\x00-\x1F\x7F]|\\["\\nrt])'
"""A character of a string in JSON text. Without \\u: half of a surrogate pair is no character."""

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
MAX_NESTING = 20
"""Depth of groups in a pattern; the engine's own reader gives up some way beyond."""

_LAST = 0xFFFF
"""Patterns go up to this character: beyond, one counts as two in some dialects."""
_SURROGATES = (0xD800, 0xDFFF)
_QUANTIFIER = re.compile(r"\{([0-9]{1,4})(,([0-9]{1,4})?)?\}")
_SHORT = {"n": 0x0A, "r": 0x0D, "t": 0x09}
_ESCAPED = {0x0A: r"\\n", 0x0D: r"\\r", 0x09: r"\\t", 0x22: r"\\\"", 0x5C: r"\\\\"}

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A pattern that cannot be kept to; the message says which part of it."""


@dataclass(frozen=True)
class _Set:
    """Characters: those of every dialect, and those of any."""

    sure: Ranges
    possible: Ranges

    def __or__(self, other: "_Set") -> "_Set":
        return _Set(_ordered(self.sure + other.sure), _ordered(self.possible + other.possible))

    def __invert__(self) -> "_Set":
        return _Set(_complement(self.possible), _complement(self.sure))


@dataclass(frozen=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True)
class _Choice:
    options: tuple["_Node", ...]


@dataclass(frozen=True)
class _Repeat:
    part: "_Node"
    least: int
    most: int | None


@dataclass(frozen=True)
class _Anchor:
    sign: str


_Node = _Set | _Sequence | _Choice | _Repeat | _Anchor


def _set(*ranges: tuple[int, int]) -> _Set:
    return _Set(ranges, ranges)


_FAR = (0x80, _LAST)
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {
    "d": _Set(_DIGITS, (*_DIGITS, _FAR)),
    "w": _Set(_WORD, (*_WORD, _FAR)),
    "s": _Set(_SPACE, ((0x09, 0x0D), (0x1C, 0x20), _FAR)),
}
_LINE_ENDS = _set((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A pattern as the engine takes it.

    Attributes:
        regex: Rust, of the JSON text between the quotes, all of it.
        lengths: bit n is set if there are strings of n characters, up to the limit.
        longest: length of the longest string; the limit and one, if it is longer.
        repeated_groups: how many; what reading a pattern takes is mostly for them.
    """

    regex: str
    lengths: int
    longest: int
    repeated_groups: int


@lru_cache(maxsize=256)
def read(pattern: str, limit: int) -> Pattern:
    """Read a pattern, which may match anywhere in a string unless it is anchored.

    Args:
        pattern: as in a JSON schema.
        limit: longest string of interest, in characters.

    Raises:
        PatternError: it is none, or means different things to different validators.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"it is longer than {MAX_PATTERN} characters")
    if any(ord(letter) > _LAST for letter in pattern):
        raise PatternError("characters beyond U+FFFF are not supported")
    reader = _Reader(pattern)
    whole = reader.whole()
    if reader.repeated_groups > MAX_REPEATED_GROUPS:
        raise PatternError(f"it repeats more than {MAX_REPEATED_GROUPS} groups")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it is no regular expression: {error}") from None
    node = _Choice(tuple(_unanchored(option) for option in _options(whole)))
    lengths = _lengths(node, (1 << (limit + 1)) - 1)
    return Pattern(
        regex=_regex(node) or "",
        lengths=lengths,
        longest=min(_longest(node, limit + 1), limit + 1),
        repeated_groups=reader.repeated_groups,
    )


class _Reader:
    """Recursive descent through a pattern."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.repeated_groups = 0

    def whole(self) -> _Node:
        node = self._choice()
        if self._at < len(self._text):
            raise PatternError("it has a `)` too many")
        return node

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        letter = self._next()
        if not letter:
            raise PatternError("it ends too early")
        self._at += 1
        return letter

    def _choice(self) -> _Node:
        options = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeated(self, part: _Node) -> _Node:
        letter = self._next()
        found = _QUANTIFIER.match(self._text, self._at)
        if letter in ("*", "+", "?"):
            self._at += 1
            least, most = int(letter == "+"), 1 if letter == "?" else None
        elif found:
            self._at = found.end()
            least = int(found[1])
            most = least if not found[2] else int(found[3]) if found[3] else None
            if most is not None and most < least:
                raise PatternError(f"{found[0]} is no range")
        else:
            return part
        if isinstance(part, _Anchor):
            raise PatternError(f"it repeats {part.sign}")
        if self._next() == "?":
            self._at += 1
        if self._next() in ("*", "+", "?"):
            raise PatternError("it repeats a repetition")
        self.repeated_groups += not isinstance(part, _Set)
        return _Repeat(part, least, most)

    def _atom(self) -> _Node:
        letter = self._take()
        if letter in "^$":
            return _Anchor(letter)
        if letter == ".":
            return ~_LINE_ENDS
        if letter == "[":
            return self._class()
        if letter == "(":
            return self._group()
        if letter == "\\":
            return self._escape(in_class=False)
        if letter in "*+?{":
            raise PatternError(f"nothing is before {letter}")
        return _set((ord(letter), ord(letter)))

    def _group(self) -> _Node:
        if self._next() == "?":
            if self._text[self._at : self._at + 2] != "?:":
                kind = self._text[self._at - 1 : self._at + 3]
                raise PatternError(f"{kind} is not supported: look-arounds, names or flags")
            self._at += 2
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise PatternError(f"it has groups nested deeper than {MAX_NESTING}")
        node = self._choice()
        self._depth -= 1
        if self._take() != ")":
            raise PatternError("a group has no end")
        return node

    def _escape(self, *, in_class: bool) -> _Set:
        letter = self._take()
        if letter.lower() in _CLASSES:
            found = _CLASSES[letter.lower()]
            return found if letter.islower() else ~found
        if letter in _SHORT:
            code = _SHORT[letter]
        elif letter in "xu":
            digits = self._text[self._at : self._at + (2 if letter == "x" else 4)]
            if not re.fullmatch("[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}", digits):
                raise PatternError(f"\\{letter}{digits} is not supported")
            self._at += len(digits)
            code = int(digits, 16)
        elif letter.isascii() and not letter.isalnum():
            code = ord(letter)
        else:
            where = " in a class" if in_class else ""
            raise PatternError(f"\\{letter} is not supported{where}")
        return _set((code, code))

    def _class(self) -> _Set:
        negated = self._next() == "^"
        self._at += negated
        if self._next() == "]":
            raise PatternError("a class begins with ]")
        found = _Set((), ())
        while (letter := self._take()) != "]":
            first = self._member(letter)
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._at += 1
                last = self._member(self._take())
                first = _between(first, last)
            found |= first
        return ~found if negated else found

    def _member(self, letter: str) -> _Set:
        if letter == "\\":
            return self._escape(in_class=True)
        # These are reserved in Python: set operations of the future.
        if letter == "[" or (letter in "&~|-" and self._next() == letter):
            raise PatternError(f"{letter} in a class is supported only as \\{letter}")
        return _set((ord(letter), ord(letter)))


def _between(first: _Set, last: _Set) -> _Set:
    for end in (first, last):
        if len(end.possible) != 1 or end.possible[0][0] != end.possible[0][1]:
            raise PatternError("a class has a range whose end is no character")
    low, high = first.sure[0][0], last.sure[0][0]
    if low > high:
        raise PatternError("a class has a range whose ends are in the wrong order")
    return _set((low, high))


def _ordered(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def _complement(ranges: Ranges) -> Ranges:
    found = []
    start = 0
    for low, high in (*_ordered(ranges), (_LAST + 1, _LAST + 1)):
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    return tuple(found)


def _options(node: _Node) -> tuple[_Node, ...]:
    """What a pattern offers at its top, groups around all of it taken off."""
    if isinstance(node, _Choice):
        return tuple(each for option in node.options for each in _options(option))
    return (node,)


def _unanchored(node: _Node) -> _Node:
    """All of a string that one option of a pattern matches."""
    parts = node.parts if isinstance(node, _Sequence) else (node,)
    begins = bool(parts) and parts[0] == _Anchor("^")
    parts = parts[1:] if begins else parts
    ends = bool(parts) and parts[-1] == _Anchor("$")
    parts = parts[:-1] if ends else parts
    for part in parts:
        _check_no_anchor(part)
    anything = _Repeat(~_set((0x00, 0x1F), (0x7F, 0x7F)), 0, None)
    return _Sequence((*(() if begins else (anything,)), *parts, *(() if ends else (anything,))))


def _check_no_anchor(node: _Node) -> None:
    match node:
        case _Anchor(sign):
            raise PatternError(f"{sign} is supported only at the ends")
        case _Sequence(parts) | _Choice(parts):
            for part in parts:
                _check_no_anchor(part)
        case _Repeat(part):
            _check_no_anchor(part)


def _codes(node: _Set) -> tuple[Ranges, list[int]]:
    """Characters that JSON text shows as they are, and those that it escapes."""
    hidden = _ordered(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), _SURROGATES))
    plain = _complement(_ordered(_complement(node.sure) + hidden))
    escaped = [code for code in _ESCAPED if any(low <= code <= high for low, high in node.sure)]
    return plain, escaped


def _regex(node: _Node) -> str | None:
    """Rust for the JSON text; None where nothing matches."""
    match node:
        case _Set():
            plain, escaped = _codes(node)
            if plain:
                return "[" + "".join(f"\\x{{{a:X}}}-\\x{{{b:X}}}" for a, b in plain) + "]"
            return "(" + "|".join(_ESCAPED[code] for code in escaped) + ")" if escaped else None
        case _Sequence(parts):
            found = [_regex(part) for part in parts]
            return None if None in found else "".join(filter(None, found))
        case _Choice(options):
            found = [regex for option in options if (regex := _regex(option)) is not None]
            return (
                "(" + "|".join(filter(None, found)) + ")" + "?" * ("" in found) if found else None
            )
        case _Repeat(part, least, most):
            inner = _regex(part)
            if not inner or most == 0:
                return "" if inner == "" or least == 0 or most == 0 else None
            return f"({inner}){{{least},{'' if most is None else most}}}"
    raise TypeError(node)


def _lengths(node: _Node, full: int) -> int:
    match node:
        case _Set():
            return 0b10 & full if any(_codes(node)) else 0
        case _Sequence(parts):
            found = 1
            for part in parts:
                found = _sums(found, _lengths(part, full), full)
            return found
        case _Choice(options):
            found = 0
            for option in options:
                found |= _lengths(option, full)
            return found
        case _Repeat(part, least, most):
            inner = _lengths(part, full)
            limit = full.bit_length()
            found = _power(inner, min(least, limit), full)
            return _sums(
                found, _power(inner | 1, limit if most is None else most - least, full), full
            )
    raise TypeError(node)


def _power(lengths: int, times: int, full: int) -> int:
    """Lengths of so many strings in a row."""
    if lengths == 0b11:
        return ((1 << (min(times, full.bit_length()) + 1)) - 1) & full
    found = 1
    while times and found:
        if times & 1:
            found = _sums(found, lengths, full)
        times >>= 1
        lengths = _sums(lengths, lengths, full) if times else lengths
    return found


def _sums(first: int, second: int, full: int) -> int:
    """Lengths of a string of one set and one of another in a row."""
    fewer, others = sorted((first, second), key=int.bit_count)
    found = 0
    while fewer:
        lowest = fewer & -fewer
        found |= others * lowest
        fewer ^= lowest
    return found & full


def _longest(node: _Node, many: int) -> int:
    """Length of the longest string; `many` or more where there is no end."""
    match node:
        case _Set():
            return 1
        case _Sequence(parts):
            return sum(_longest(part, many) for part in parts)
        case _Choice(options):
            return max(_longest(option, many) for option in options)
        case _Repeat(part, _, most):
            return min(_longest(part, many) * (many if most is None else most), many)
    raise TypeError(node)
