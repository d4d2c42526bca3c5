"""Grammars of JSON texts, in llguidance's dialect of Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md

White space is what `json.dumps` writes, and no more: a model could go on with it for ever.
"""

import json
from typing import Any

from device_runtime.json_schema import numbers, patterns
from device_runtime.json_schema.document import Document, Source, UnsupportedSchemaError
from device_runtime.json_schema.keywords import (
    MAX_ITEMS,
    MAX_PROPERTIES,
    MAX_PROPERTY_NAME,
    MAX_STRING,
    Keywords,
)
from device_runtime.json_schema.numbers import NUMBER_FORMATS
from device_runtime.json_schema.pattern_tree import PatternError
from device_runtime.json_schema.sequences import Member, items, members
from device_runtime.json_schema.shapes import ALL, Bounds, Shape, Sub, type_of

ANY_DEPTH = 4
"""How deep arrays and objects are nested in a value of which nothing is said."""

MAX_RECURSION = 6
"""How often a schema that refers to itself is entered within itself."""

MAX_DEPTH = 40
"""Schemas within schemas. The engine reads a grammar by recursion, on a stack of limited size."""

MAX_RULES = 2_000
MAX_GRAMMAR = 400_000
"""Characters of a grammar."""

MAX_REPEATED_GROUPS = 30
"""In all patterns together; see there."""

_SCALARS = ALL - {"array", "object"}
_PROPERTY_NAME = rf'"[^"\\\x00-\x1F\x7F]{{1,{MAX_PROPERTY_NAME}}}"'


class Grammar:
    """The rules for one schema.

    Attributes:
        lines: the rules, that for the whole first.
    """

    def __init__(self, schema: Any, start: str) -> None:
        """Write them.

        Args:
            schema: a client's.
            start: name of the rule for the whole; others begin with it.

        Raises:
            UnsupportedSchemaError: it cannot be kept to.
        """
        self._document = Document(schema)
        self._keywords = Keywords(self._document)
        self._start = start
        self._characters = 0
        self._rule_names: dict[str, str] = {}
        self._terminal_names: dict[str, str] = {}
        self._made: dict[tuple[Sub, int], str | None] = {}
        self._active: set[tuple[Sub, int]] = set()
        self._repeated_groups: dict[str, int] = {}
        self._no_value: UnsupportedSchemaError | None = None
        root = self._value((self._document.root,), 0, 0)
        if root is None:
            raise self._no_value or self._document.root.error("schema", "fits no value")
        self.lines = [f"{start}: {root}"]
        for names in (self._rule_names, self._terminal_names):
            self.lines += [f"{name}: {text}" for text, name in names.items()]

    def _value(self, sub: Sub, recursion: int, depth: int) -> str | None:
        """What makes values that fit some schemas; None if no value does."""
        sub = self._keywords.canonical(sub)
        if not sub:
            return self._any(ANY_DEPTH)
        while (sub, recursion) in self._active:
            recursion += 1
        key = (sub, recursion)
        if key in self._made:
            return self._made[key]
        if recursion > MAX_RECURSION or (recursion and depth > MAX_DEPTH):
            self._no_value = sub[0].error("$ref", "leads back to itself without an end")
            return None
        if depth > MAX_DEPTH:
            raise sub[0].error("schema", f"is nested deeper than {MAX_DEPTH}")
        self._active.add(key)
        options: dict[str, None] = {}
        for shape in self._keywords.shapes(sub):
            options.update(dict.fromkeys(self._options(shape, sub[0], recursion, depth + 1)))
        self._active.remove(key)
        found = self._rule(" | ".join(options)) if options else None
        self._made[key] = found
        return found

    def _options(self, shape: Shape, source: Source, recursion: int, depth: int) -> list[str]:
        """What makes values of a shape."""
        if shape.values is not None:
            return self._listed(shape, source)
        found: list[str | None] = []
        for kind in shape.made:
            if kind == "null":
                found.append('"null"')
            elif kind == "boolean":
                found += ['"true"', '"false"']
            elif kind == "string":
                found.append(self._string(shape, source))
            elif kind == "array":
                found.append(self._array(shape, source, recursion, depth))
            elif kind == "object":
                found.append(self._object(shape, source, recursion, depth))
        if not shape.made.isdisjoint(("integer", "fraction")):
            found.append(self._number(shape, source))
        return sorted(option for option in found if option is not None)

    def _listed(self, shape: Shape, source: Source) -> list[str]:
        values = [value for value in shape.values or () if not shape.rejects(value)]
        if not values:
            self._no_value = source.error("enum", "has no value that fits the keywords beside it")
            return []
        kinds = {type_of(value) for value in values}
        inside = (shape.prefix, shape.rest, shape.properties, shape.additional, shape.names)
        if "string" in kinds and (shape.patterns or shape.formats):
            raise source.error("enum", "is not supported beside pattern or format")
        if kinds & {"array", "object"} and any(inside):
            raise source.error("enum", "is not supported beside items or properties")
        return [self._terminal(" | ".join(_literal(_plain(value)) for value in values))]

    def _number(self, shape: Shape, source: Source) -> str | None:
        within = shape.numbers
        for name, _ in shape.formats:
            within &= NUMBER_FORMATS.get(name, numbers.EVERY)
        if "fraction" in shape.made and shape.multiple == 1:
            found = numbers.decimals(within)
            regexes: tuple[str, ...] | None = None if found is None else (found,)
        else:
            try:
                regexes = numbers.integers(within, shape.multiple)
            except ValueError as error:
                raise source.error("multipleOf", f"is not supported: {error}") from None
        if regexes is None:
            reason = f"leaves no number of {numbers.DIGITS} digits, {numbers.DECIMALS} decimals"
            self._no_value = source.error("minimum", reason)
            return None
        return self._terminal(" & ".join(f"/{regex}/" for regex in regexes))

    def _string(self, shape: Shape, source: Source) -> str | None:
        least, most = shape.length.least, shape.length.up_to(MAX_STRING)
        of_length = f'/"{patterns.CHARACTER}{{{least},{most}}}"/'
        texts = dict(shape.patterns)
        for name, where in shape.formats:
            if name not in patterns.FORMATS:
                raise where.error("format", f"{name!r} is not supported for strings")
            texts[f"^({patterns.FORMATS[name]})$"] = where
        if len(texts) > 1:
            raise source.error("pattern", "is supported once for a string, and without format")
        if not texts:
            return self._terminal(of_length)
        [(text, where)] = texts.items()
        try:
            pattern = patterns.read(text, MAX_STRING)
        except PatternError as error:
            raise where.error("pattern", f"is not supported: {error}") from None
        self._repeated_groups[text] = pattern.repeated_groups
        if sum(self._repeated_groups.values()) > MAX_REPEATED_GROUPS:
            raise where.error("pattern", f"repeats more than {MAX_REPEATED_GROUPS} groups in all")
        if not any(pattern.lengths >> length & 1 for length in range(least, most + 1)):
            self._no_value = where.error("pattern", "fits no string of a length that is allowed")
            return None
        regex = f'/"{pattern.regex}"/'
        shortest = (pattern.lengths & -pattern.lengths).bit_length() - 1
        if shortest >= least and pattern.longest <= most:
            return self._terminal(regex)
        return self._terminal(f"{regex} & {of_length}")

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
            self._no_value = source.error("minItems", "asks for items that no value fits")
            return None
        inside = items(first[:most], rest, Bounds(least=shape.items.least, most=most), self._rule)
        return self._rule(f'"[" {inside} "]"')

    def _object(self, shape: Shape, source: Source, recursion: int, depth: int) -> str | None:
        properties = []
        for name in shape.described:
            value = self._value(shape.property(name), recursion, depth)
            if value is not None:
                key = _literal(_plain(name) + ": ")
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
        try:
            inside = members(properties, other, shape.counts, MAX_PROPERTIES, self._rule)
        except ValueError as error:
            raise source.error("minProperties", str(error)) from None
        if inside is None:
            if not shape.closed and shape.counts.least > certain:
                raise source.error("minProperties", "is not supported with so many free names")
            self._no_value = source.error("minProperties", "does not fit the properties")
            return None
        return self._rule(f'"{{" {inside} "}}"')

    def _other_name(self, described: tuple[str, ...]) -> str:
        if not described:
            return self._terminal(f"/{_PROPERTY_NAME}/")
        names = [_literal(json.dumps(name, ensure_ascii=False)) for name in described]
        return self._terminal(f"/{_PROPERTY_NAME}/ & ~{self._terminal(' | '.join(names))}")

    def _any(self, levels: int) -> str:
        """What makes values of any kind, arrays and objects nested so deep."""
        scalars = self._options(Shape(types=_SCALARS), self._document.root, 0, 0)
        if not levels:
            return self._rule(" | ".join(scalars))
        value = self._any(levels - 1)
        array = items([], value, Bounds(most=MAX_ITEMS), self._rule)
        other = f'{self._other_name(())} ": " {value}'
        inside = members([], other, Bounds(), MAX_PROPERTIES, self._rule)
        return self._rule(" | ".join((*scalars, f'"[" {array} "]"', f'"{{" {inside} "}}"')))

    def _rule(self, text: str) -> str:
        if text.isidentifier() or text in ('"null"', '"true"', '"false"'):
            return text
        return self._named(self._rule_names, text, f"{self._start}_{len(self._rule_names) + 1}")

    def _terminal(self, text: str) -> str:
        name = f"{self._start}_{len(self._terminal_names) + 1}".upper()
        return self._named(self._terminal_names, text, name)

    def _named(self, names: dict[str, str], text: str, name: str) -> str:
        if text not in names:
            names[text] = name
            self._characters += len(text)
            many = len(names) > MAX_RULES or self._characters > MAX_GRAMMAR
            if many:
                raise self._document.root.error("schema", "is too large, as a grammar")
        return names[text]


def _plain(value: Any) -> str:
    """JSON in ASCII: a rare character is several tokens, and where nothing is left to choose, the
    engine cannot write a part of one."""
    return json.dumps(value)


def _literal(text: str) -> str:
    """A text in a grammar. The engine's reader of strings knows no surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)
