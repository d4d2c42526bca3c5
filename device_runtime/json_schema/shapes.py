"""Shapes of values: the keywords of a schema, merged, without its `anyOf` and `$ref`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from math import gcd, lcm
from typing import Any, TypeVar

from device_runtime.json_schema.document import Source
from device_runtime.json_schema.numbers import EVERY, Range

ALL = frozenset(("null", "boolean", "integer", "fraction", "string", "array", "object"))
"""Types of values. JSON Schema's `number` is `integer` and `fraction`."""

MAX_DISJOINT_DEPTH = 3
"""Depth of the search for what distinguishes the options of a `oneOf`."""

Sub = tuple[Source, ...]
"""Schemas that all hold; none for any value."""


_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Least and most of something that is counted; most is None where there is no end."""

    least: int = 0
    most: int | None = None

    def __and__(self, other: "Bounds") -> "Bounds":
        ends = [most for most in (self.most, other.most) if most is not None]
        return Bounds(least=max(self.least, other.least), most=min(ends, default=None))

    @property
    def empty(self) -> bool:
        """True if nothing is between them."""
        return self.most is not None and self.least > self.most

    def __contains__(self, count: int) -> bool:
        return self.least <= count <= self.up_to(count)

    def up_to(self, cap: int) -> int:
        """Most, but no more than a cap."""
        return cap if self.most is None else min(cap, self.most)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Keywords that a value must fit.

    Attributes:
        types: those that are allowed; None where no `type` is given.
        hints: types that other keywords speak of.
        values: the only ones allowed; None for no such list.
        numbers: range of a number.
        multiple: what a number must be a multiple of; None for nothing.
        length: of a string, in characters.
        patterns: of a string, each with the schema that has it.
        formats: likewise.
        items: how many an array has.
        prefix: what its first items are.
        rest: what the others are; None where that is not said.
        counts: how many properties an object has.
        listed: there is a list of properties, if only an empty one.
        properties: those that are described.
        required: their names.
        additional: what other properties are; None where that is not said.
        open: other properties are spoken of as something to have.
        names: the only names of properties; None for no such list.
    """

    types: frozenset[str] | None = None
    hints: frozenset[str] = frozenset()
    values: tuple[Any, ...] | None = None
    numbers: Range = EVERY
    multiple: Fraction | None = None
    length: Bounds = Bounds()
    patterns: tuple[tuple[str, Source], ...] = ()
    formats: tuple[tuple[str, Source], ...] = ()
    items: Bounds = Bounds()
    prefix: tuple[Sub, ...] = ()
    rest: Sub | None = None
    counts: Bounds = Bounds()
    listed: bool = False
    properties: dict[str, Sub] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    additional: Sub | None = None
    open: bool = False
    names: tuple[str, ...] | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """Types of the values to write: without a `type`, those that the keywords speak of."""
        return self.types if self.types is not None else self.hints or ALL

    @property
    def described(self) -> tuple[str, ...]:
        """Names of the properties that objects are made with, in their order."""
        names = dict.fromkeys((*self.properties, *self.required, *(self.names or ())))
        return tuple(name for name in names if self.names is None or name in self.names)

    @property
    def may_be_absent(self) -> int:
        """Number of described properties that an object can lack."""
        return len(set(self.described) - set(self.required)) if "object" in self.kinds else 0

    @property
    def may_be_first(self) -> int:
        """Number of described properties that an object can begin with."""
        names = self.described if "object" in self.kinds else ()
        return next((n for n, name in enumerate(names, 1) if name in self.required), len(names))

    @property
    def closed(self) -> bool:
        """True if objects are made without other properties than those described.

        Where a schema lists properties and says nothing about others, a model that may have more
        would go on inventing them.
        """
        if self.names is not None:
            return True
        return self.listed and not self.open and self.counts.least <= len(self.described)

    def property(self, name: str) -> Sub:
        """Schemas of a property."""
        return self.properties.get(name, self.additional or ())

    def item(self, number: int) -> Sub:
        """Schemas of an item."""
        return self.prefix[number] if number < len(self.prefix) else self.rest or ()

    def __and__(self, other: "Shape") -> "Shape":
        named = dict.fromkeys((*self.properties, *other.properties))
        length = max(len(self.prefix), len(other.prefix))
        return Shape(
            types=_common(self.types, other.types),
            hints=self.hints | other.hints,
            values=_common_values(self.values, other.values),
            numbers=self.numbers & other.numbers,
            multiple=common_multiple(self.multiple, other.multiple),
            length=self.length & other.length,
            patterns=_joined(self.patterns, other.patterns),
            formats=_joined(self.formats, other.formats),
            items=self.items & other.items,
            prefix=tuple(_joined(self.item(n), other.item(n)) for n in range(length)),
            rest=_joined_if_any(self.rest, other.rest),
            counts=self.counts & other.counts,
            listed=self.listed or other.listed,
            properties={name: _joined(self.property(name), other.property(name)) for name in named},
            required=_joined(self.required, other.required),
            additional=_joined_if_any(self.additional, other.additional),
            open=self.open or other.open,
            names=_common_values(self.names, other.names),
        )

    def possible(self) -> "Shape | None":
        """The same without the types that no value can have; None if none is left."""
        impossible = {"string"} if self.length.empty else set()
        impossible |= {"array"} if self.items.empty else set()
        impossible |= {"object"} if self.counts.empty else set()
        impossible |= {"integer", "fraction"} if self.numbers.empty else set()
        if not impossible and self.values is None:
            return self
        types = (ALL if self.types is None else self.types) - impossible
        values = self.values
        if values is not None:
            values = tuple(value for value in values if type_of(value) in types)
        if not types or values == ():
            return None
        kept = self.types if self.types is None and not impossible else types
        return replace(self, types=kept, values=values)

    def rejects(self, value: Any) -> bool:
        """True if a value surely does not fit, without a look inside arrays and objects."""
        kind = type_of(value)
        if self.types is not None and kind not in self.types:
            return True
        if self.values is not None and identity(value) not in map(identity, self.values):
            return True
        if kind in ("integer", "fraction"):
            number = exact(value)
            multiple = self.multiple is None or Fraction(number) % self.multiple == 0
            return number not in self.numbers or not multiple
        counts = {"string": self.length, "array": self.items, "object": self.counts}
        if kind in counts and len(value) not in counts[kind]:
            return True
        return kind == "object" and not set(self.required) <= set(value)


def disjoint(
    first: Shape, second: Shape, shapes: Callable[[Sub], tuple[Shape, ...]], depth: int = 0
) -> bool:
    """Decide if it is plain that no value written for the first fits the second."""
    if depth > MAX_DISJOINT_DEPTH:
        return False
    common = first.kinds & (ALL if second.types is None else second.types)
    if first.values is not None:
        return all(second.rejects(value) for value in first.values)
    if second.values is not None:
        return all(first.rejects(value) for value in second.values)
    apart = {
        "null": False,
        "boolean": False,
        "integer": (first.numbers & second.numbers).empty,
        "fraction": (first.numbers & second.numbers).empty,
        "string": (first.length & second.length).empty,
        "array": (first.items & second.items).empty,
    }
    return all(
        apart[kind] if kind in apart else _objects_disjoint(first, second, shapes, depth)
        for kind in common
    )


def _objects_disjoint(
    first: Shape, second: Shape, shapes: Callable[[Sub], tuple[Shape, ...]], depth: int
) -> bool:
    if (first.counts & second.counts).empty:
        return True
    for name in first.required:
        theirs = shapes(second.property(name))
        if all(
            disjoint(left, right, shapes, depth + 1)
            for right in theirs
            for left in shapes(first.property(name))
        ):
            return True
    return first.closed and not set(second.required) <= set(first.described)


def type_of(value: Any) -> str:
    """Name a value's type, one of `ALL`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def exact(number: float) -> Decimal:
    """A number as JSON text would have it."""
    return Decimal(repr(number) if isinstance(number, float) else number)


def common_multiple(first: Fraction | None, second: Fraction | None) -> Fraction | None:
    """Find the least common multiple; None stands for one that every number is a multiple of."""
    if first is None or second is None:
        return second if first is None else first
    numerator = lcm(first.numerator, second.numerator)
    return Fraction(numerator, gcd(first.denominator, second.denominator))


def identity(value: Any) -> Any:
    """Return a key that is equal for values equal in JSON Schema, where 1 is 1.0 but not true."""
    if isinstance(value, dict):
        return frozenset((name, identity(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return tuple(map(identity, value))
    return (isinstance(value, bool), value)


def _common(first: frozenset[str] | None, second: frozenset[str] | None) -> frozenset[str] | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _common_values(
    first: tuple[Any, ...] | None, second: tuple[Any, ...] | None
) -> tuple[Any, ...] | None:
    if first is None or second is None:
        return second if first is None else first
    others = set(map(identity, second))
    return tuple(value for value in first if identity(value) in others)


def _joined(first: tuple[_T, ...], second: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _joined_if_any(first: Sub | None, second: Sub | None) -> Sub | None:
    return None if first is None and second is None else _joined(first or (), second or ())
