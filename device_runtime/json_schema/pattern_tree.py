"""Patterns of a JSON schema as trees, as far as ECMA-262 and Python's `re` agree on them."""

import re
from dataclasses import dataclass

MAX_NESTING = 20
"""Depth of groups in a pattern; the engine's own reader gives up some way beyond."""
LAST = 0xFFFF
"""Patterns go up to this character: beyond, one counts as two in some dialects."""
_QUANTIFIER = re.compile(r"\{([0-9]{1,4})(,([0-9]{1,4})?)?\}")
ESCAPED = (0x09, 0x0A, 0x0D, 0x22, 0x5C)
"""Characters that JSON text has as escapes of two."""
_HIDDEN = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF))
_SHORT = {"n": 0x0A, "r": 0x0D, "t": 0x09}

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A pattern that cannot be kept to; the message says which part of it."""


@dataclass(frozen=True)
class CharSet:
    """Characters: those of every dialect, and those of any."""

    sure: Ranges
    possible: Ranges

    def __contains__(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.sure)

    def __or__(self, other: "CharSet") -> "CharSet":
        return CharSet(ordered(self.sure + other.sure), ordered(self.possible + other.possible))

    def __invert__(self) -> "CharSet":
        return CharSet(complement(self.possible), complement(self.sure))


@dataclass(frozen=True)
class Sequence:
    """One after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Choice:
    """One of them."""

    options: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """The same several times; most is None where there is no end."""

    part: "Node"
    least: int
    most: int | None


@dataclass(frozen=True)
class Anchor:
    """`^` or `$`."""

    sign: str


@dataclass(frozen=True)
class Look:
    """A look-ahead: what comes next begins with the node, or does not."""

    node: "Node"
    negative: bool


@dataclass(frozen=True)
class Both:
    """All of them."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Not:
    """Anything else; its part has the character sets inverted by `possible`."""

    part: "Node"


Node = CharSet | Sequence | Choice | Repeat | Anchor | Look | Both | Not


def sequence(*parts: Node) -> Sequence:
    """Join parts, and the parts of sequences among them."""
    return Sequence(
        tuple(
            inner
            for part in parts
            for inner in (part.parts if isinstance(part, Sequence) else (part,))
        )
    )


def of_ranges(*ranges: tuple[int, int]) -> CharSet:
    """Characters on which all dialects agree."""
    return CharSet(ranges, ranges)


_FAR = (0x80, LAST)
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {
    "d": CharSet(_DIGITS, (*_DIGITS, _FAR)),
    "w": CharSet(_WORD, (*_WORD, _FAR)),
    "s": CharSet(_SPACE, ((0x09, 0x0D), (0x1C, 0x20), _FAR)),
}
_LINE_ENDS = of_ranges((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


class Reader:
    """Recursive descent through a pattern."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.repeated_groups = 0
        self.looks = 0

    def whole(self) -> Node:
        """The tree.

        Raises:
            PatternError: it is not a pattern, or not supported.
        """
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

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        letter = self._next()
        braces = _QUANTIFIER.match(self._text, self._at)
        if letter in ("*", "+", "?"):
            self._at += 1
            least, most = int(letter == "+"), 1 if letter == "?" else None
        elif braces:
            self._at = braces.end()
            least = int(braces[1])
            most = least if not braces[2] else int(braces[3]) if braces[3] else None
            if most is not None and most < least:
                raise PatternError(f"{braces[0]} is not a range")
        else:
            return part
        if isinstance(part, Anchor | Look):
            raise PatternError("it repeats an anchor or a look-ahead")
        if self._next() == "?":
            self._at += 1
        if self._next() in ("*", "+", "?"):
            raise PatternError("it repeats a repetition")
        self.repeated_groups += not isinstance(part, CharSet)
        return Repeat(part, least, most)

    def _atom(self) -> Node:
        letter = self._take()
        if letter in "^$":
            return Anchor(letter)
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
        return of_ranges((ord(letter), ord(letter)))

    def _group(self) -> Node:
        kind = self._text[self._at : self._at + 2] if self._next() == "?" else ""
        if kind not in ("", "?:", "?=", "?!"):
            kind = self._text[self._at - 1 : self._at + 3]
            raise PatternError(f"{kind} is not supported: look-behinds, names or flags")
        self._at += len(kind)
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise PatternError(f"it has groups nested deeper than {MAX_NESTING}")
        node = self._choice()
        self._depth -= 1
        if self._take() != ")":
            raise PatternError("a group has no end")
        if kind in ("?=", "?!"):
            self.looks += 1
            return Look(node, negative=kind == "?!")
        return node

    def _escape(self, *, in_class: bool) -> CharSet:
        letter = self._take()
        if letter.lower() in _CLASSES:
            members = _CLASSES[letter.lower()]
            return members if letter.islower() else ~members
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
        return of_ranges((code, code))

    def _class(self) -> CharSet:
        negated = self._next() == "^"
        self._at += negated
        if self._next() == "]":
            raise PatternError("a class begins with ]")
        members = CharSet((), ())
        while (letter := self._take()) != "]":
            first = self._member(letter)
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._at += 1
                last = self._member(self._take())
                first = _between(first, last)
            members |= first
        return ~members if negated else members

    def _member(self, letter: str) -> CharSet:
        if letter == "\\":
            return self._escape(in_class=True)
        # These are reserved in Python: set operations of the future.
        if letter == "[" or (letter in "&~|-" and self._next() == letter):
            raise PatternError(f"{letter} in a class is supported only as \\{letter}")
        return of_ranges((ord(letter), ord(letter)))


def _between(first: CharSet, last: CharSet) -> CharSet:
    for end in (first, last):
        if len(end.possible) != 1 or end.possible[0][0] != end.possible[0][1]:
            raise PatternError("a class has a range whose end is not a character")
    low, high = first.sure[0][0], last.sure[0][0]
    if low > high:
        raise PatternError("a class has a range whose ends are in the wrong order")
    return of_ranges((low, high))


def ordered(ranges: Ranges) -> Ranges:
    """Merge ranges into as few as it takes."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """Find all other characters up to `LAST`."""
    others = []
    start = 0
    for low, high in (*ordered(ranges), (LAST + 1, LAST + 1)):
        if start < low:
            others.append((start, low - 1))
        start = high + 1
    return tuple(others)


def shown(node: CharSet) -> tuple[Ranges, list[int]]:
    """Return the characters that JSON text shows as they are, and those that it escapes."""
    plain = complement(ordered(complement(node.sure) + _HIDDEN))
    return plain, [code for code in ESCAPED if code in node]


def is_regular(node: Node) -> bool:
    """Return whether a regular expression of Rust can be written for a tree."""
    match node:
        case Both() | Not():
            return False
        case Sequence(parts) | Choice(parts):
            return all(map(is_regular, parts))
    return True
