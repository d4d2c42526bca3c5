"""The keywords of JSON Schema (Draft 2020-12, and tuples of Draft 7), read into shapes.

https://json-schema.org/draft/2020-12/schema; keywords that it does not have are annotations.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations, product
from typing import Any

from device_runtime.json_schema.document import Document, Source
from device_runtime.json_schema.numbers import Range
from device_runtime.json_schema.shapes import ALL, Bounds, Shape, Sub, disjoint, exact

MAX_STRING = 1000
"""Most characters of a string: about 250 tokens, after which a model that repeats itself is cut."""

MAX_ITEMS = 64
MAX_PREFIX = 20
MAX_PROPERTIES = 16
"""Most properties that a schema does not name."""

MAX_PROPERTY_NAME = 40
"""Most characters of the name of one."""

MAX_ENUM = 1000
MAX_OPTIONS = 64
"""Most shapes that a schema may have, once its `anyOf` are multiplied out."""

MAX_WORK = 50_000
"""Shapes merged or compared for a schema; a second or so."""

_NUMBERS = frozenset(("integer", "fraction"))
_TYPES = {kind: frozenset((kind,)) for kind in ALL - _NUMBERS}
_TYPES |= {"integer": frozenset(("integer",)), "number": _NUMBERS}

NUMBER_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")

_HINTS = {
    "minimum": "fraction",
    "maximum": "fraction",
    "exclusiveMinimum": "fraction",
    "exclusiveMaximum": "fraction",
    "multipleOf": "fraction",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "uniqueItems": "array",
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "propertyNames": "object",
    "minProperties": "object",
    "maxProperties": "object",
}

_VALUES = frozenset((*_HINTS, "type", "enum", "const", "allOf", "anyOf", "oneOf"))
_REFUSED = frozenset([
    "$dynamicRef", "$recursiveRef", "not", "if", "contains", "patternProperties", "dependencies",
    "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
])  # fmt: skip
"""Keywords that bound a value and are not supported; `then`, `minContains` and the like do so only
beside one of these."""

KEYWORDS = _VALUES | _REFUSED | {"$ref", "$id"}
"""Names of all keywords that are not annotations."""

MAX_REFERENCES = 64
"""Depth to which `$ref`, `allOf` and the like may lead into each other without a value."""


@dataclass
class Work:
    """Cost of a schema: shapes that were merged or compared."""

    done: int = 0


class Keywords:
    """Reads the schemas of one document."""

    def __init__(self, document: Document, work: Work) -> None:
        self._document = document
        self._read: dict[Source, tuple[Shape, ...]] = {}
        self._active: set[Source] = set()
        self._merged: dict[Sub, tuple[Shape, ...]] = {}
        self._work = work

    def shapes(self, sub: Sub) -> tuple[Shape, ...]:
        """Read the shapes of the values that fit all of some schemas; none if no value does.

        Raises:
            UnsupportedSchemaError: a keyword in them cannot be kept to.
        """
        if sub not in self._merged:
            shapes: tuple[Shape, ...] = (Shape(),)
            for source in sub:
                shapes = self._product(shapes, self._shapes(source), source)
            self._merged[sub] = shapes
        return self._merged[sub]

    def canonical(self, sub: Sub) -> Sub:
        """Replace those schemas that are only references by their targets."""
        targets: dict[Source, None] = {}
        for source in sub:
            seen: set[Source] = set()
            while self._is_reference(source) and source not in seen:
                seen.add(source)
                source = self._document.target(source)
            if source.schema is not True:
                targets[source] = None
        return tuple(targets)

    def _is_reference(self, source: Source) -> bool:
        schema = source.schema
        if not isinstance(schema, dict) or "$ref" not in schema:
            return False
        return schema.keys().isdisjoint(_VALUES | _REFUSED)

    def _shapes(self, source: Source) -> tuple[Shape, ...]:
        if source in self._active:
            raise source.error("$ref", "refers to itself")
        if len(self._active) > MAX_REFERENCES:
            raise source.error("$ref", f"leads on more than {MAX_REFERENCES} times")
        if source not in self._read:
            self._active.add(source)
            self._read[source] = self._alternatives(source)
            self._active.remove(source)
        return self._read[source]

    def _alternatives(self, source: Source) -> tuple[Shape, ...]:
        schema = source.schema
        if isinstance(schema, bool):
            return (Shape(),) if schema else ()
        if not isinstance(schema, dict):
            raise source.error("schema", "must be an object or a boolean")
        for keyword in schema:
            if keyword in _REFUSED or (keyword == "$id" and source.steps):
                raise source.error(keyword, "is not supported")
        own = _own(source).possible()
        shapes: tuple[Shape, ...] = () if own is None else (own,)
        if "$ref" in schema:
            shapes = self._product(shapes, self._shapes(self._document.target(source)), source)
        for part in _parts(source, "allOf"):
            shapes = self._product(shapes, self._shapes(part), source)
        if "anyOf" in schema:
            options = [shape for part in _parts(source, "anyOf") for shape in self._shapes(part)]
            shapes = self._product(shapes, tuple(options), source)
        if "oneOf" in schema:
            shapes = self._one_of(shapes, source)
        return shapes

    def _product(
        self, first: tuple[Shape, ...], second: tuple[Shape, ...], source: Source
    ) -> tuple[Shape, ...]:
        products = []
        for left, right in product(first, second):
            self._count(1 + (len(left.properties) + len(right.properties)) // 8, source)
            both = (left & right).possible()
            if both is not None:
                products.append(both)
        if len(products) > MAX_OPTIONS:
            raise source.error("anyOf", f"comes to more than {MAX_OPTIONS} options")
        return tuple(products)

    def _one_of(self, shapes: tuple[Shape, ...], source: Source) -> tuple[Shape, ...]:
        options = [
            self._product(shapes, self._shapes(part), source) for part in _parts(source, "oneOf")
        ]
        for first, second in combinations(options, 2):
            for left, right in product(first, second):
                self._count(4, source)
                if disjoint(left, right, self.shapes) and disjoint(right, left, self.shapes):
                    continue
                raise source.error(
                    "oneOf",
                    "has options that may fit the same value; give each a required property with "
                    "a const of its own, or use anyOf",
                )
        return tuple(chain.from_iterable(options))

    def _count(self, work: int, source: Source) -> None:
        self._work.done += work
        if self._work.done > MAX_WORK:
            raise source.error("schema", "is too complex")


def _own(source: Source) -> Shape:
    """Read the keywords of a schema but for those that hold schemas for the same value."""
    schema = source.schema
    types = _types(source)
    items = _bounds(source, "Items", MAX_ITEMS)
    if schema.get("uniqueItems", False) is not False and (items.most is None or items.most > 1):
        raise source.error("uniqueItems", "is not supported")
    # Draft 7 has the schemas of a tuple in `items`, and that of other items in `additionalItems`.
    is_tuple = isinstance(schema.get("items"), list)
    first, others = ("items", "additionalItems") if is_tuple else ("prefixItems", "items")
    if is_tuple and "prefixItems" in schema:
        raise source.error("items", "must be a schema beside prefixItems")
    prefix = _parts(source, first)
    if len(prefix) > MAX_PREFIX:
        raise source.error(first, f"has more than {MAX_PREFIX} schemas")
    properties = _mapping(source, "properties")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise source.error("required", "must be an array of strings")
    additional = schema.get("additionalProperties")
    if additional is False and not set(required) <= set(properties):
        raise source.error("required", "has a name that no property may have")
    counts = _bounds(source, "Properties", None)
    if counts.least > len({*properties, *required}) + MAX_PROPERTIES:
        raise source.error("minProperties", f"requires more than {MAX_PROPERTIES} other names")
    return Shape(
        types=types,
        hints=frozenset().union(
            *(_TYPES.get(_HINTS[word], _NUMBERS) for word in schema if word in _HINTS)
        ),
        values=_values(source),
        numbers=_range(source),
        multiple=_multiple(source),
        length=_bounds(source, "Length", MAX_STRING),
        patterns=_text(source, "pattern"),
        formats=_text(source, "format"),
        items=items,
        prefix=tuple((part,) for part in prefix),
        rest=_child(source, others),
        counts=counts,
        listed="properties" in schema,
        properties=properties,
        required=tuple(required),
        additional=_child(source, "additionalProperties"),
        open=additional is not None and additional is not False,
        names=_names(source),
    )


def _types(source: Source) -> frozenset[str] | None:
    given = source.schema.get("type")
    if "type" not in source.schema:
        return None
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise source.error("type", f"must be one or more of {', '.join(sorted(_TYPES))}")
    return frozenset().union(*(_TYPES[name] for name in names))


def _values(source: Source) -> tuple[Any, ...] | None:
    schema = source.schema
    if "const" in schema and "enum" in schema:
        raise source.error("const", "is not supported beside enum")
    if "const" in schema:
        return (schema["const"],)
    if "enum" not in schema:
        return None
    values = schema["enum"]
    if not isinstance(values, list) or not values:
        raise source.error("enum", "must be an array of at least one value")
    if len(values) > MAX_ENUM:
        raise source.error("enum", f"has more than {MAX_ENUM} values")
    return tuple(values)


def _range(source: Source) -> Range:
    within = Range()
    for keyword in NUMBER_BOUNDS:
        if keyword not in source.schema:
            continue
        value = source.schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise source.error(keyword, "must be a number")
        bound, excluded = exact(value), keyword.startswith("exclusive")
        if keyword in ("minimum", "exclusiveMinimum"):
            within &= Range(low=bound, above=excluded)
        else:
            within &= Range(high=bound, below=excluded)
    if within.empty:
        word = "minimum" if "minimum" in source.schema else "exclusiveMinimum"
        raise source.error(word, "is beyond the maximum")
    return within


def _multiple(source: Source) -> Fraction | None:
    if "multipleOf" not in source.schema:
        return None
    value = source.schema["multipleOf"]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise source.error("multipleOf", "must be a number above 0")
    return Fraction(exact(value))


def _bounds(source: Source, what: str, cap: int | None) -> Bounds:
    bounds = Bounds(least=_count(source, f"min{what}") or 0, most=_count(source, f"max{what}"))
    if bounds.empty:
        raise source.error(f"min{what}", f"is greater than max{what}")
    if cap is not None and bounds.least > cap:
        raise source.error(f"min{what}", f"is supported up to {cap}")
    return bounds


def _count(source: Source, keyword: str) -> int | None:
    if keyword not in source.schema:
        return None
    value = source.schema[keyword]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or value != int(value):
        raise source.error(keyword, "must be a whole number, 0 or more")
    return int(value)


def _text(source: Source, keyword: str) -> tuple[tuple[str, Source], ...]:
    if keyword not in source.schema:
        return ()
    if not isinstance(source.schema[keyword], str):
        raise source.error(keyword, "must be a string")
    return ((source.schema[keyword], source),)


def _parts(source: Source, keyword: str) -> list[Source]:
    if keyword not in source.schema:
        return []
    given = source.schema[keyword]
    if not isinstance(given, list) or not given:
        raise source.error(keyword, "must be an array of at least one schema")
    return [source.at(keyword, number) for number in range(len(given))]


def _child(source: Source, keyword: str) -> Sub | None:
    return (source.at(keyword),) if keyword in source.schema else None


def _mapping(source: Source, keyword: str) -> dict[str, Sub]:
    given = source.schema.get(keyword, {})
    if not isinstance(given, dict):
        raise source.error(keyword, "must be an object")
    return {name: (source.at(keyword, name),) for name in given}


def _names(source: Source) -> tuple[str, ...] | None:
    """Read the names that `propertyNames` lists."""
    if "propertyNames" not in source.schema:
        return None
    given = source.at("propertyNames")
    if not isinstance(given.schema, dict):
        raise source.error("propertyNames", "must be an object")
    others = given.schema.keys() & (_VALUES | _REFUSED | {"$ref"}) - {"type", "enum", "const"}
    if given.schema.get("type", "string") != "string" or others:
        raise source.error("propertyNames", "is supported with enum or const only")
    values = _values(given)
    if values is None:
        return None
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
