"""Members of arrays and objects in a grammar, with the commas between them."""

from typing import NamedTuple

from device_runtime.json_schema.lark import Rules
from device_runtime.json_schema.shapes import Bounds

_COMMA = '", "'


class Member(NamedTuple):
    """A property: its name and value, and whether it must be there."""

    text: str
    required: bool


def items(first: list[str], rest: str | None, bounds: Bounds, rules: Rules) -> str:
    """Write what is between the brackets of an array.

    Args:
        first: its first items, each of its own kind.
        rest: the kind of all others; None for no others.
        bounds: how many there are; most is not None.
        rules: gets the rules that it takes.
    """
    most = bounds.most or 0
    text = ""
    if rest is not None and most > len(first):
        least = max(0, bounds.least - len(first))
        more = f"{_COMMA} {rest}"
        if first:
            text = _repeated(more, least, most - len(first))
        else:
            text = f"{rest} {_repeated(more, max(0, least - 1), most - 1)}"
            text = text if least else f"({text})?"
    for number in reversed(range(len(first))):
        text = f"{_COMMA if number else ''} {first[number]} {text}"
        text = text if number < bounds.least else f"{rules.rule(text)}?"
    return text or '""'


def members(
    properties: list[Member], other: str | None, counts: Bounds, most_others: int, rules: Rules
) -> str | None:
    """Write what is between the braces of an object; None if there can be nothing.

    The rules form a chain, one for each property, whose parameter is the number of the properties
    before: https://github.com/guidance-ai/llguidance/blob/main/docs/parametric.md

    Args:
        properties: those with a name, in their order.
        other: a property of any other name; None for no others.
        counts: how many properties there are. With others, the least is what must be there and at
            most one more.
        most_others: at most so many others.
        rules: gets the rules that it takes.
    """
    needed = sum(member.required for member in properties)
    most_others = most_others if other is not None else 0
    most = counts.up_to(len(properties) + most_others)
    least = max(counts.least, needed)
    if least > most:
        return None
    if needed == len(properties) and not most_others:
        return f" {_COMMA} ".join(member.text for member in properties) or '""'
    # Up to the first that must be there, none may be before.
    sure = next((n for n, member in enumerate(properties) if member.required), len(properties))
    most_others = min(most_others, most - needed)
    rest = rules.counting(f'"" %if ge(_, {least})')
    if other is not None and most_others:
        room = Bounds(least=least, most=counts.most)
        rest = _others(other, most_others, room, rest, rules)
    needed, possible = 0, most_others
    for number, member in reversed([*enumerate(properties)]):
        options: list[str] = []
        if most > needed:
            text = rules.rule(member.text)
            options = _taken(text, rest, most - needed, first=number <= sure, later=number > 0)
        if not member.required:
            options.append(f"{rest}::_ %if ge(_, {max(0, least - possible)})")
        rest = rules.counting(" | ".join(options))
        needed += member.required
        possible += 1
    return f"{rest}::0"


def _others(other: str, most_others: int, counts: Bounds, end: str, rules: Rules) -> str:
    """Properties that have any name, of which one is enough for the least of all."""
    if counts.most is None:
        more = f"{_COMMA} {other}"
        first = f"{other} {_repeated(more, 0, most_others - 1)} %if eq(_, 0)"
        later = f"{_repeated(more, 1, most_others)} %if gt(_, 0)"
        return rules.counting(f"{end}::_ | {first} | {later}")
    rest = end
    for _ in range(most_others):
        taken = _taken(other, rest, counts.most, first=True, later=True)
        rest = rules.counting(" | ".join((f"{end}::_", *taken)))
    return rest


def _taken(text: str, rest: str, most: int, *, first: bool, later: bool) -> list[str]:
    """A member and the rest: as the first of all, and after a comma as one of at most so many."""
    options = [f"{text} {rest}::incr(_) %if eq(_, 0)"] if first else []
    if later:
        options.append(f"{_COMMA} {text} {rest}::incr(_) %if and(gt(_, 0), lt(_, {most}))")
    return options


def _repeated(text: str, least: int, most: int) -> str:
    """A part of a rule so many times; the engine refuses a repetition of which there are none."""
    return f"({text}){{{least},{most}}}" if most else ""
