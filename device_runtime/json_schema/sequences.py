"""The members of arrays and objects in a grammar, with the commas between them."""

from collections.abc import Callable
from typing import NamedTuple

from device_runtime.json_schema.shapes import Bounds

MAX_COUNTED = 24
"""Most optional properties whose number can be bounded: each number is a rule of its own."""

_COMMA = '", "'


class Member(NamedTuple):
    """A property: its name and value, and whether it must be there."""

    text: str
    required: bool


def items(first: list[str], rest: str | None, bounds: Bounds, rule: Callable[[str], str]) -> str:
    """What is between the brackets of an array.

    Args:
        first: its first items, each of its own kind.
        rest: the kind of all others; None for no others.
        bounds: how many there are; most is not None.
        rule: gives the name of a rule for a text.
    """
    most = bounds.most or 0
    found = ""
    if rest is not None and most > len(first):
        least = max(0, bounds.least - len(first))
        if first:
            found = f"({_COMMA} {rest}){{{least},{most - len(first)}}}"
        else:
            found = f"{rest} ({_COMMA} {rest}){{{max(0, least - 1)},{most - 1}}}"
            found = found if least else f"({found})?"
    for number in reversed(range(len(first))):
        found = f"{_COMMA if number else ''} {first[number]} {found}"
        found = found if number < bounds.least else f"{rule(found)}?"
    return found or '""'


def members(
    properties: list[Member],
    other: str | None,
    counts: Bounds,
    most_others: int,
    rule: Callable[[str], str],
) -> str | None:
    """What is between the braces of an object; None if there can be none.

    Args:
        properties: those with a name, in their order.
        other: a property of any other name; None for no others.
        counts: how many properties there are.
        most_others: at most so many others.
        rule: gives the name of a rule for a text.

    Raises:
        ValueError: too many combinations.
    """
    required = sum(member.required for member in properties)
    most_others = most_others if other is not None else 0
    most = len(properties) + most_others
    least = max(counts.least, required)
    if (counts & Bounds(least=required, most=most)).empty:
        return None
    free = counts.up_to(most) == most and least <= max(required, 1)
    if free:
        return _free(properties, other, most_others, least, rule)
    return _counted(properties, other, counts, most_others, rule)


def _free(
    properties: list[Member],
    other: str | None,
    most_others: int,
    least: int,
    rule: Callable[[str], str],
) -> str:
    texts = [rule(member.text) for member in properties]
    first = next((n for n, member in enumerate(properties) if member.required), None)
    if first is not None:
        before = [f"({text} {_COMMA})?" for text in texts[:first]]
        after = [
            _following(text, member.required)
            for text, member in zip(texts[first + 1 :], properties[first + 1 :], strict=True)
        ]
        return " ".join((*before, texts[first], *after, _others(other, 0, most_others)))
    parts = [(text, _following(text, False)) for text in texts]
    if most_others:
        parts.append(
            (f"{other} {_others(other, 0, most_others - 1)}", _others(other, 0, most_others))
        )
    if not parts:
        return '""'
    some = _some(parts, rule)
    return some if least else f"({some})?"


def _some(parts: list[tuple[str, str]], rule: Callable[[str], str]) -> str:
    """At least one of some members: each as it is first, and as it follows others.

    Halving them keeps the rules from leading into each other as often as there are members.
    """
    if len(parts) == 1:
        return parts[0][0]
    half = len(parts) // 2
    after = " ".join(following for _, following in parts[half:])
    return rule(f"{_some(parts[:half], rule)} {after} | {_some(parts[half:], rule)}")


def _counted(
    properties: list[Member],
    other: str | None,
    counts: Bounds,
    most_others: int,
    rule: Callable[[str], str],
) -> str | None:
    if len(properties) > MAX_COUNTED and not all(member.required for member in properties):
        raise ValueError(f"is not supported beside more than {MAX_COUNTED} properties")
    texts = [rule(member.text) for member in properties]
    made: dict[tuple[int, int], str | None] = {}

    def rest(number: int, count: int) -> str | None:
        """The properties from one on, after so many others."""
        if (number, count) not in made:
            made[number, count] = written(number, count)
        return made[number, count]

    def written(number: int, count: int) -> str | None:
        left = counts.up_to(len(texts) + most_others) - count
        if number == len(texts):
            least, most = max(0, counts.least - count), min(most_others, left)
            if least > most:
                return None
            if count or not most:
                return _others(other, least, most)
            found = f"{other} {_others(other, max(0, least - 1), most - 1)}"
            return found if least else f"({found})?"
        options = []
        if left > 0 and (following := rest(number + 1, count + 1)) is not None:
            options.append(f"{_COMMA if count else ''} {texts[number]} {following}")
        if not properties[number].required:
            skipped = rest(number + 1, count)
            options += [] if skipped is None else [skipped]
        return rule(" | ".join(options)) if options else None

    if len(properties) <= MAX_COUNTED:
        return rest(0, 0)
    others = rest(len(texts), len(texts))
    return None if others is None else f"{f' {_COMMA} '.join(texts)} {others}"


def _following(text: str, required: bool) -> str:
    return f"{_COMMA} {text}" if required else f"({_COMMA} {text})?"


def _others(other: str | None, least: int, most: int) -> str:
    return f"({_COMMA} {other}){{{least},{most}}}" if most else '""'
