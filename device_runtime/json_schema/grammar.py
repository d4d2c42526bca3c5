"""Grammars that keep a model's JSON to a client's schema.

A grammar is narrower than its schema: all values that it makes fit, but strings, numbers, arrays
and nesting have bounds, and white space is what `json.dumps` writes, so that no model goes on for
ever inside one value. What cannot be kept to is refused by its keyword; see
docs/structured-output.md.
"""

import json
from fractions import Fraction
from functools import lru_cache
from typing import Any

from device_runtime.json_schema import numbers, patterns
from device_runtime.json_schema.document import Document, Source, UnsupportedSchemaError, without
from device_runtime.json_schema.keywords import (
    MAX_ITEMS,
    MAX_PROPERTIES,
    MAX_PROPERTY_NAME,
    MAX_STRING,
    NUMBER_BOUNDS,
    Keywords,
    Work,
)
from device_runtime.json_schema.lark import Rules, literal
from device_runtime.json_schema.numbers import NUMBER_FORMATS
from device_runtime.json_schema.pattern_search import Search
from device_runtime.json_schema.pattern_tree import Both, Node, PatternError
from device_runtime.json_schema.sequences import Member, items, members
from device_runtime.json_schema.shapes import ALL, Bounds, Shape, Sub, common_multiple, type_of

ANY_DEPTH = 4
"""Nesting depth of arrays and objects in a value that the schema does not describe."""

MAX_RECURSION = 6
"""Number of times that a schema that refers to itself is entered within itself."""

MAX_DEPTH = 40
"""Schemas within schemas. The engine reads a grammar by recursion, on a stack of limited size."""

MAX_OPTIONAL = 400
"""Properties that may be absent. The engine looks at no more than 2,000 parts of rules at once, and
takes four for each."""

MAX_IGNORED = 64
"""Keywords of a schema to leave out; with more, its arguments are any object."""

MAX_REPEATED_GROUPS = 30
"""In all patterns together; see there."""

_SCALARS = ALL - {"array", "object"}
_PROPERTY_NAME = rf'"[^"\\\x00-\x1F\x7F]{{1,{MAX_PROPERTY_NAME}}}"'


def rules(schema: Any, start: str = "start") -> list[str]:
    """Write the grammar of the JSON texts that fit a schema.

    Args:
        schema: a JSON schema (Draft 2020-12) of a client, decoded from JSON.
        start: name of the rule for a whole text; all other names begin with it.

    Returns:
        Its rules in llguidance's dialect of Lark, one a line.

    Raises:
        UnsupportedSchemaError: the grammar would let in what the schema does not, or nothing.
    """
    return _Writer(schema, start, Search(), Work()).lines()


def loose_rules(schema: Any, start: str) -> tuple[list[str], tuple[str, ...]]:
    """Write the grammar of a schema of objects without its keywords that are not supported.

    Args:
        schema: as for `rules`, with the `type` object.
        start: as for `rules`.

    Returns:
        The rules, and the paths of the keywords that were left out.
    """
    search, work = Search(), Work()
    ignored: list[str] = []
    while schema.get("type") == "object" and len(ignored) < MAX_IGNORED:
        try:
            return _Writer(schema, start, search, work).lines(), tuple(ignored)
        except UnsupportedSchemaError as error:
            ignored.append(error.path)
            schema = without(schema, error.steps)
    return list(any_object_rules(start)), ("$",)


@lru_cache
def any_object_rules(start: str = "start") -> tuple[str, ...]:
    """Write the grammar of any JSON object, as `rules` does."""
    return tuple(rules({"type": "object"}, start))


class _Writer:
    """Writes the rules for one schema."""

    def __init__(self, schema: Any, start: str, search: Search, work: Work) -> None:
        self._document = Document(schema)
        self._keywords = Keywords(self._document, work)
        self._search = search
        self._rules = Rules(start, self._document.root)
        self._values: dict[tuple[Sub, int], str | None] = {}
        self._anything: dict[int, str] = {}
        self._active: set[tuple[Sub, int]] = set()
        self._repeated_groups: dict[str, int] = {}
        self._no_value: UnsupportedSchemaError | None = None

    def lines(self) -> list[str]:
        root = self._document.root
        whole = self._value((root,), 0, 0)
        if whole is None:
            raise self._no_value or root.error("schema", "fits no value")
        return self._rules.lines(whole)

    def _value(self, sub: Sub, recursion: int, depth: int) -> str | None:
        """A rule for the values that fit some schemas; None if no value does."""
        sub = self._keywords.canonical(sub)
        if not sub:
            return self._any(ANY_DEPTH)
        while (sub, recursion) in self._active:
            recursion += 1
        key = (sub, recursion)
        if key in self._values:
            return self._values[key]
        if recursion > MAX_RECURSION or (recursion and depth > MAX_DEPTH):
            self._no_value = sub[0].error("$ref", "leads back to itself without an end")
            return None
        if depth > MAX_DEPTH:
            raise sub[0].error("schema", f"is nested deeper than {MAX_DEPTH}")
        shapes = self._keywords.shapes(sub)
        first = sum(shape.may_be_first for shape in shapes)
        if max(first, *(shape.may_be_absent for shape in shapes), 0) > MAX_OPTIONAL:
            raise sub[0].error("properties", f"has more than {MAX_OPTIONAL} that are not required")
        self._active.add(key)
        options: dict[str, None] = {}
        for shape in shapes:
            options.update(dict.fromkeys(self._options(shape, sub[0], recursion, depth + 1)))
        self._active.remove(key)
        self._values[key] = self._rules.rule(" | ".join(options)) if options else None
        return self._values[key]

    def _options(self, shape: Shape, source: Source, recursion: int, depth: int) -> list[str]:
        """Parts of rules for the values of a shape."""
        if shape.values is not None:
            return self._listed(shape, source)
        options: list[str | None] = []
        for kind in shape.kinds:
            if kind == "null":
                options.append('"null"')
            elif kind == "boolean":
                options += ['"true"', '"false"']
            elif kind == "string":
                options.append(self._string(shape, source))
            elif kind == "array":
                options.append(self._array(shape, source, recursion, depth))
            elif kind == "object":
                options.append(self._object(shape, source, recursion, depth))
        if not shape.kinds.isdisjoint(("integer", "fraction")):
            options.append(self._number(shape, source))
        return sorted(option for option in options if option is not None)

    def _listed(self, shape: Shape, source: Source) -> list[str]:
        values = [value for value in shape.values or () if not shape.rejects(value)]
        search = self._search
        for node, where in self._patterns(shape).items():
            try:
                values = [v for v in values if not isinstance(v, str) or search.matches(node, v)]
            except PatternError as error:
                raise where.error("pattern", f"is not supported: {error}") from None
        if not values:
            self._no_value = source.error("enum", "has no value that fits the keywords beside it")
            return []
        kinds = {type_of(value) for value in values}
        inside = (shape.prefix, shape.rest, shape.properties, shape.additional, shape.names)
        if kinds & {"array", "object"} and any(inside):
            raise source.error("enum", "is not supported beside items or properties")
        return [self._rules.terminal(" | ".join(literal(_json(value)) for value in values))]

    def _number(self, shape: Shape, source: Source) -> str | None:
        within = shape.numbers
        for name, _ in shape.formats:
            within &= NUMBER_FORMATS.get(name, numbers.EVERY)
        whole = "fraction" not in shape.kinds
        if shape.multiple is None:
            regexes = numbers.integers(within) if whole else numbers.decimals(within)
        else:
            multiple = common_multiple(shape.multiple, Fraction(1) if whole else None)
            try:
                regexes = numbers.multiples(within, multiple or shape.multiple)
            except ValueError as error:
                raise source.error("multipleOf", f"is not supported: {error}") from None
        if regexes is None:
            reason = f"leaves no number of {numbers.DIGITS} digits, {numbers.DECIMALS} decimals"
            bound = next((word for word in NUMBER_BOUNDS if word in source.schema), "type")
            self._no_value = source.error(bound, reason)
            return None
        return self._rules.terminal(" & ".join(f"/{regex}/" for regex in regexes))

    def _string(self, shape: Shape, source: Source) -> str | None:
        least, most = shape.length.least, shape.length.up_to(MAX_STRING)
        of_length = f'/"{patterns.CHARACTER}{{{least},{most}}}"/'
        parts = [(node, "pattern", where) for node, where in self._patterns(shape).items()]
        for name, where in shape.formats:
            if name in patterns.FORMATS:
                parts.append((patterns.of_format(name), "format", where))
        if not parts:
            return self._rules.terminal(of_length)
        nodes = tuple(node for node, _, _ in parts)
        node = nodes[0] if len(nodes) == 1 else Both(nodes)
        _, keyword, where = parts[-1]
        try:
            needed, possible = self._search.lengths(node, least, most)
        except PatternError as error:
            raise where.error(keyword, f"is not supported: {error}") from None
        if not possible:
            reason = "fits no string of a length that is allowed"
            reason += ", not with the other patterns" if len(nodes) > 1 else ""
            self._no_value = where.error(keyword, reason)
            return None
        text = f'/"/ {patterns.terminal(node)} /"/'
        return self._rules.terminal(f"({text}) & {of_length}" if needed else text)

    def _patterns(self, shape: Shape) -> dict[Node, Source]:
        """Read the patterns of strings, each with the schema that has it."""
        nodes: dict[Node, Source] = {}
        for text, where in shape.patterns:
            try:
                pattern = patterns.read(text)
            except PatternError as error:
                raise where.error("pattern", f"is not supported: {error}") from None
            nodes[pattern.node] = where
            self._repeated_groups[text] = pattern.repeated_groups
            if sum(self._repeated_groups.values()) > MAX_REPEATED_GROUPS:
                reason = f"repeats more than {MAX_REPEATED_GROUPS} groups in all"
                raise where.error("pattern", reason)
        return nodes

    def _array(self, shape: Shape, source: Source, recursion: int, depth: int) -> str | None:
        most = shape.items.up_to(MAX_ITEMS)
        first: list[str] = []
        for sub in shape.prefix[:most]:
            item = self._value(sub, recursion, depth)
            if item is None:
                most = len(first)
                break
            first.append(item)
        rest = None
        # A tuple whose further items are not spoken of has none, unless it must.
        if most > len(first) and (
            not first or shape.rest is not None or shape.items.least > len(first)
        ):
            rest = self._value(shape.rest or (), recursion, depth)
        if rest is None:
            most = min(most, len(first))
        if shape.items.least > most:
            self._no_value = source.error("minItems", "requires items that no value fits")
            return None
        counts = Bounds(least=shape.items.least, most=most)
        inside = items(first[:most], rest, counts, self._rules)
        return self._rules.rule(f'"[" {inside} "]"')

    def _object(self, shape: Shape, source: Source, recursion: int, depth: int) -> str | None:
        properties = []
        for name in shape.described:
            value = self._value(shape.property(name), recursion, depth)
            if value is not None:
                key = literal(_json(name) + ": ")
                properties.append(Member(f"{key} {value}", name in shape.required))
            elif name in shape.required:
                self._no_value = source.error("required", f"has a name that fits no value: {name}")
                return None
        if not set(shape.required) <= set(shape.described):
            self._no_value = source.error("required", "has a name that propertyNames has not")
            return None
        other = None
        # A grammar cannot keep free names from coming twice, and then they count once.
        certain = len(shape.required) + 1
        if not shape.closed and shape.counts.least <= certain:
            value = self._value(shape.additional or (), recursion, depth)
            if value is not None:
                other = f'{self._other_name(shape.described)} ": " {value}'
        inside = members(properties, other, shape.counts, MAX_PROPERTIES, self._rules)
        if inside is None:
            if not shape.closed and shape.counts.least > certain:
                raise source.error("minProperties", "is not supported with so many free names")
            self._no_value = source.error("minProperties", "does not fit the properties")
            return None
        return self._rules.rule(f'"{{" {inside} "}}"')

    def _other_name(self, described: tuple[str, ...]) -> str:
        if not described:
            return self._rules.terminal(f"/{_PROPERTY_NAME}/")
        names = self._rules.terminal(" | ".join(literal(_json(name)) for name in described))
        return self._rules.terminal(f"/{_PROPERTY_NAME}/ & ~{names}")

    def _any(self, levels: int) -> str:
        """A rule for values of any kind, arrays and objects nested so deep."""
        if levels not in self._anything:
            self._anything[levels] = self._write_any(levels)
        return self._anything[levels]

    def _write_any(self, levels: int) -> str:
        scalars = self._options(Shape(types=_SCALARS), self._document.root, 0, 0)
        if not levels:
            return self._rules.rule(" | ".join(scalars))
        value = self._any(levels - 1)
        array = items([], value, Bounds(most=MAX_ITEMS), self._rules)
        other = f'{self._other_name(())} ": " {value}'
        inside = members([], other, Bounds(), MAX_PROPERTIES, self._rules)
        options = (*scalars, f'"[" {array} "]"', f'"{{" {inside} "}}"')
        return self._rules.rule(" | ".join(options))


def _json(value: Any) -> str:
    """JSON with its characters as they are, DEL excepted: they are fewer tokens than escapes."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")
