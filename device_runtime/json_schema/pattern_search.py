"""Search of the strings that match patterns, by Brzozowski's derivatives.

J. A. Brzozowski, Derivatives of Regular Expressions, Journal of the ACM 11 (1964): the derivative
of a tree after a character matches what may follow that character.
"""

from collections.abc import Iterator

from device_runtime.json_schema.pattern_tree import (
    ESCAPED,
    LAST,
    Both,
    CharSet,
    Choice,
    Node,
    Not,
    PatternError,
    Repeat,
    Sequence,
    is_regular,
    of_ranges,
    sequence,
    shown,
)

MAX_WORK = 50_000
"""Derivatives taken for all patterns of a schema, by their options; a second or so."""

_NOTHING = Choice(())
_VISIBLE = [start for start, _ in shown(of_ranges((0x00, LAST)))[0]]


class Search:
    """Derivatives, each taken once, and up to a number in all."""

    def __init__(self) -> None:
        self._taken: dict[tuple[Node, int], Node] = {}
        self._work = 0

    def matches(self, node: Node, text: str) -> bool:
        """Return whether a tree surely matches a text.

        Raises:
            PatternError: that takes too long to find out.
        """
        for letter in text:
            node = self._after(node, ord(letter))
        return _may_end(node)

    def lengths(self, node: Node, least: int, most: int) -> tuple[bool, bool]:
        """Compare the strings of JSON that match with bounds on their length.

        Returns:
            True if there may be strings beyond the bounds, and True if there are some within.

        Raises:
            PatternError: that takes too long to find out.
        """
        if is_regular(node):
            bits, within = lengths(node, most), (1 << (most + 1)) - (1 << least)
            return bool(bits & ~within), bool(bits & within)
        return True, self._fits(node, least, most)

    def _fits(self, node: Node, least: int, most: int) -> bool:
        """Search depth first, so that a long string is found as soon as a short one."""
        letters = _representatives(node)
        shortest: dict[tuple[Node, int], int] = {}
        waiting = [(node, 0)]
        while waiting:
            state, length = waiting.pop()
            if length >= least and _may_end(state):
                return True
            place = (state, min(length, least))
            if length == most or shortest.get(place, most) <= length:
                continue
            shortest[place] = length
            following = dict.fromkeys(self._after(state, code) for code in letters)
            waiting += [(after, length + 1) for after in following if after != _NOTHING]
        return False

    def _after(self, node: Node, code: int) -> Node:
        if isinstance(node, CharSet):
            return Sequence(()) if code in node else _NOTHING
        key = (node, code)
        if key not in self._taken:
            self._work += len(node.options) if isinstance(node, Choice) else 1
            if self._work > MAX_WORK:
                raise PatternError("it takes too long to find a string that it matches")
            self._taken[key] = self._derivative(node, code)
        return self._taken[key]

    def _derivative(self, node: Node, code: int) -> Node:
        match node:
            case Sequence(parts):
                return _choice(self._after_parts(parts, code))
            case Choice(options):
                return _choice(self._after(option, code) for option in options)
            case Repeat(part, least, most):
                if most == 0:
                    return _NOTHING
                rest = Repeat(part, max(0, least - 1), None if most is None else most - 1)
                return _joined(self._after(part, code), rest)
            case Both(parts):
                return _both(self._after(part, code) for part in parts)
            case Not(part):
                return Not(self._after(part, code))
        raise TypeError(node)

    def _after_parts(self, parts: tuple[Node, ...], code: int) -> Iterator[Node]:
        for number, part in enumerate(parts):
            yield _joined(self._after(part, code), *parts[number + 1 :])
            if not _may_end(part):
                return


def _may_end(node: Node) -> bool:
    """Return whether a tree matches the empty text."""
    match node:
        case Sequence(parts) | Both(parts):
            return all(map(_may_end, parts))
        case Choice(options):
            return any(map(_may_end, options))
        case Repeat(part, least):
            return least == 0 or _may_end(part)
        case Not(part):
            return not _may_end(part)
    return False


def _representatives(node: Node) -> list[int]:
    """List characters of JSON's strings: of those that a tree does not tell apart, the first."""
    starts = {*_VISIBLE, *_starts(node)}
    every = of_ranges(*((code, code) for code in starts if code <= LAST))
    return [low for low, high in shown(every)[0] for low in range(low, high + 1)] + [*ESCAPED]


def _starts(node: Node) -> Iterator[int]:
    match node:
        case CharSet(sure):
            for low, high in sure:
                yield from (low, high + 1)
        case Sequence(parts) | Choice(parts) | Both(parts):
            for part in parts:
                yield from _starts(part)
        case Repeat(part) | Not(part):
            yield from _starts(part)


def _joined(first: Node, *rest: Node) -> Node:
    if first == _NOTHING:
        return _NOTHING
    whole = sequence(first, *rest)
    return whole.parts[0] if len(whole.parts) == 1 else whole


def _choice(options: Iterator[Node]) -> Node:
    kept = dict.fromkeys(
        inner
        for option in options
        for inner in (option.options if isinstance(option, Choice) else (option,))
    )
    return next(iter(kept)) if len(kept) == 1 else Choice(tuple(kept))


def _both(parts: Iterator[Node]) -> Node:
    kept = dict.fromkeys(part for part in parts if part != Not(_NOTHING))
    return _NOTHING if _NOTHING in kept else Both(tuple(kept))


def lengths(node: Node, limit: int) -> int:
    """Find the lengths of the strings that match a tree without `Both` and `Not`.

    Returns:
        Bit n is set if there are strings of n characters; that after the limit, if there are longer
        ones.
    """
    match node:
        case CharSet():
            return 0b10 if any(shown(node)) else 0
        case Sequence(parts):
            bits = 1
            for part in parts:
                bits = _sums(bits, lengths(part, limit), limit)
            return bits
        case Choice(options):
            bits = 0
            for option in options:
                bits |= lengths(option, limit)
            return bits
        case Repeat(part, least, most):
            inner = lengths(part, limit)
            more = limit + 1 if most is None else most - least
            return _sums(_power(inner, least, limit), _power(inner | 1, more, limit), limit)
    raise TypeError(node)


def _power(bits: int, times: int, limit: int) -> int:
    """Lengths of so many strings in a row."""
    times = min(times, limit + 1)
    if bits == 0b11:
        return (1 << (times + 1)) - 1
    result = 1
    while times and result:
        if times & 1:
            result = _sums(result, bits, limit)
        times >>= 1
        bits = _sums(bits, bits, limit) if times else bits
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
