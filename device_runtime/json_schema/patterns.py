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
    Both,
    CharSet,
    Choice,
    Look,
    Node,
    Not,
    PatternError,
    Reader,
    Repeat,
    Sequence,
    is_regular,
    of_ranges,
    sequence,
    shown,
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
MAX_REPEATED_GROUPS = 30
MAX_LOOKS = 6
"""Look-aheads of a pattern: one within a group doubles what comes after the group."""

_ESCAPES = {0x0A: r"\\n", 0x0D: r"\\r", 0x09: r"\\t", 0x22: r"\\\"", 0x5C: r"\\\\"}
_NOTHING = "(/a/ & /b/)"
_EVERY = of_ranges((0x00, LAST))
_UNSAID = ~of_ranges((0x00, 0x1F), (0x7F, 0x7F))
"""Characters before and after a pattern that is not anchored."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A pattern that was read.

    Attributes:
        node: tree of the whole string, without anchors and look-aheads.
        repeated_groups: how many; what the engine takes is mostly for them.
    """

    node: Node
    repeated_groups: int


@lru_cache(maxsize=256)
def read(pattern: str) -> Pattern:
    """Read a pattern, which may match anywhere in a string unless it is anchored.

    Args:
        pattern: as in a JSON schema.

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
    if reader.looks > MAX_LOOKS:
        raise PatternError(f"it has more than {MAX_LOOKS} look-aheads")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it is not a regular expression: {error}") from None
    options = (_unanchored(option, _UNSAID) for option in _options(whole))
    return Pattern(node=Choice(tuple(options)), repeated_groups=reader.repeated_groups)


def of_format(name: str) -> Node:
    """Return the tree of a format in `FORMATS`."""
    return read(f"^({FORMATS[name]})$").node


def _options(node: Node) -> tuple[Node, ...]:
    """The options of a pattern at its top, groups around all of it taken off."""
    if isinstance(node, Choice):
        return tuple(inner for option in node.options for inner in _options(option))
    return (node,)


def _unanchored(node: Node, others: CharSet, *, begins: bool = False) -> Node:
    """Make one option of a pattern match the whole of a string, or of the rest of it.

    Args:
        node: the option.
        others: characters that may be before and after what is not anchored.
        begins: the option is anchored at its beginning even without `^`.
    """
    parts = node.parts if isinstance(node, Sequence) else (node,)
    anchored = bool(parts) and parts[0] == Anchor("^") and not begins
    parts = parts[1:] if anchored else parts
    ends = bool(parts) and parts[-1] == Anchor("$")
    parts = parts[:-1] if ends else parts
    anything = Repeat(others, 0, None)
    whole = _continued(Sequence(parts), Sequence(()) if ends else anything)
    return whole if begins or anchored else sequence(anything, whole)


def _continued(node: Node, rest: Node) -> Node:
    """Join a part of a pattern and the rest of the string, which its look-aheads are about."""
    match node:
        case Anchor(sign):
            raise PatternError(f"{sign} is supported only at the ends")
        case Look(inner, negative):
            options = (_unanchored(option, _EVERY, begins=True) for option in _options(inner))
            ahead = Choice(tuple(options))
            return Both((rest, Not(_inverted(ahead)) if negative else ahead))
        case Sequence(parts):
            for part in reversed(parts):
                rest = _continued(part, rest)
            return rest
        case Choice(options) if not _is_plain(node):
            return Choice(tuple(_continued(option, rest) for option in options))
        case Repeat(part, 0, 1) if not _is_plain(node):
            return Choice((_continued(part, rest), rest))
        case Repeat() if not _is_plain(node):
            raise PatternError("it repeats an anchor or a look-ahead")
    return sequence(node, rest)


def _is_plain(node: Node) -> bool:
    """Return whether a part has no anchors and no look-aheads."""
    match node:
        case Anchor() | Look():
            return False
        case Sequence(parts) | Choice(parts):
            return all(map(_is_plain, parts))
        case Repeat(part):
            return _is_plain(part)
    return True


def _inverted(node: Node) -> Node:
    """Let the sets of a tree have what is possible for what is sure, and the other way round."""
    match node:
        case CharSet(sure, possible):
            return CharSet(possible, sure)
        case Sequence(parts):
            return Sequence(tuple(map(_inverted, parts)))
        case Choice(options):
            return Choice(tuple(map(_inverted, options)))
        case Both(parts):
            return Both(tuple(map(_inverted, parts)))
        case Repeat(part, least, most):
            return Repeat(_inverted(part), least, most)
        case Not(part):
            return Not(_inverted(part))
    raise TypeError(node)


def terminal(node: Node) -> str:
    """Write the JSON text of strings as a part of a terminal of Lark, which has `&` and `~`."""
    match node:
        case Both(parts):
            return "(" + " & ".join(map(terminal, parts)) + ")"
        case Not(part):
            return f"~{terminal(part)}"
        case Sequence(parts) if not is_regular(node):
            return "(" + " ".join(map(terminal, parts)) + ")"
        case Choice(options) if not is_regular(node):
            return "(" + " | ".join(map(terminal, options)) + ")"
    regex = _regex(node)
    # Two slashes would begin a comment.
    return _NOTHING if regex is None else f"/{regex or '()'}/"


def _regex(node: Node) -> str | None:
    """Write Rust for the JSON text; None where nothing matches."""
    match node:
        case CharSet():
            plain, escaped = shown(node)
            if plain:
                return "[" + "".join(f"\\x{{{a:X}}}-\\x{{{b:X}}}" for a, b in plain) + "]"
            return "(" + "|".join(_ESCAPES[code] for code in escaped) + ")" if escaped else None
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
