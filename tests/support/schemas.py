"""Random JSON schemas, and a model that is kept to one."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
from jsonschema import ValidationError

from device_runtime.inference.genai_model import GenAIModel
from tests.support import guided

Json = Any

NAMES = ("name", "age", "é", 'a "b"\\', "items", "kind", "x-1", "", "\u2028", "日本", "b\nc")
PATTERNS = ("^[a-z]{2,5}$", r"\d+", "^(ab|c)*$", r"^\S+@\w+\.com$", "^[^/]+/[^/]+$", "x?", r"^\W$")
FORMATS = (
    *("date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "duration", "uri"),
)
VALUES: tuple[Json, ...] = (
    *(None, True, False, 0, 1, -7, 1.5, -0.25, 10**18, 1e-9, "", "a", 'q"\\/\n\x01', "é 日本 😀"),
    *([], [1, "a"], {}, {"a": {"b": [None]}}),
)
UNSUPPORTED: tuple[dict[str, Json], ...] = (
    {"type": "array", "uniqueItems": True},
    {"not": {"type": "null"}},
    {"if": {"type": "string"}, "then": {"maxLength": 3}},
    {"type": "number", "multipleOf": 0.7},
    {"type": "string", "pattern": "(?<=a)b"},
    {"type": "object", "patternProperties": {"^x": {}}},
    {"oneOf": [{"type": "integer"}, {"minimum": 3}]},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
)


class RandomSchemas:
    """Makes schemas; the same seed makes the same one."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def make(self) -> Json:
        """A schema, mostly of an object as clients send them, now and then of anything."""
        pick = self._random.random()
        schema = self._object(3) if pick < 0.7 else self._schema(3)
        if not isinstance(schema, dict):
            return schema
        schema["$defs"] = {
            "tree": {
                "type": "object",
                "properties": {
                    "value": self._schema(0),
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": self._some(["value", "children"]),
                "additionalProperties": False,
            },
            "list": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pair"}]},
            "pair": {"type": "array", "prefixItems": [self._schema(0), {"$ref": "#/$defs/list"}]},
            "leaf": self._schema(0),
        }
        return schema

    def _some(self, values: list[Any], least: int = 0) -> list[Any]:
        return self._random.sample(values, self._random.randint(least, len(values)))

    def _maybe(self, schema: dict[str, Json], **keywords: Json) -> dict[str, Json]:
        chosen = {word: value for word, value in keywords.items() if self._random.random() < 0.4}
        return schema | chosen

    def _schema(self, depth: int) -> Json:
        makers: list[Callable[[int], dict[str, Json]]] = [
            self._string,
            self._number,
            self._enum,
            lambda _: {"type": self._random.choice(["null", "boolean"])},
            lambda _: {"type": self._some(["null", "boolean", "string", "integer", "number"], 1)},
        ]
        if self._random.random() < 0.03:
            return self._random.choice([True, {}, *UNSUPPORTED])
        if depth:
            makers += 2 * [self._object, self._array]
            makers += [self._any_of, self._one_of, self._all_of, self._reference]
        return self._random.choice(makers)(depth - 1)

    def _string(self, _: int) -> dict[str, Json]:
        least = self._random.randint(0, 6)
        schema = self._maybe({"type": "string"}, minLength=least, maxLength=least + 8)
        extra: dict[str, Json] = self._random.choice(
            [
                *(2 * [{}]),
                {"pattern": self._random.choice(PATTERNS)},
                {"format": self._random.choice(FORMATS)},
            ]
        )
        return extra | ({"type": "string"} if "format" in extra else schema)

    def _number(self, _: int) -> dict[str, Json]:
        kind = self._random.choice(["integer", "number"])
        low = self._random.choice([0, 1, -5, 0.5, -273.15, 1e-3, 10**9, -(10**16), 0.1 + 0.2])
        high = low + self._random.choice([1, 2.5, 100, 1e6, 10**15])
        schema = self._maybe({"type": kind}, minimum=low, maximum=high)
        if kind == "integer":
            return self._maybe(schema, multipleOf=self._random.choice([1, 2, 5, 7, 10, 25]))
        return self._maybe(schema, exclusiveMinimum=low, exclusiveMaximum=high)

    def _enum(self, _: int) -> dict[str, Json]:
        if self._random.random() < 0.3:
            return {"const": self._random.choice(VALUES)}
        values = self._some(list(VALUES), 1)
        return self._maybe({"enum": values}, type=["string", "integer", "null"])

    def _object(self, depth: int) -> dict[str, Json]:
        names = self._some(list(NAMES))[:5]
        properties = {name: self._schema(depth) for name in names}
        if self._random.random() < 0.3:
            return {
                "type": "object",
                "properties": properties,
                "required": names,
                "additionalProperties": False,
            }
        if self._random.random() < 0.2:
            schema = {"type": "object", "additionalProperties": self._schema(depth)}
            least = self._random.randint(0, 3)
            return self._maybe(schema, minProperties=least, maxProperties=least + 2)
        least = self._random.randint(0, len(names))
        return self._maybe(
            {"type": "object", "properties": properties},
            required=self._some(names),
            additionalProperties=self._random.choice([False, True, {"type": "integer"}]),
            minProperties=least,
            maxProperties=least + self._random.randint(0, 3),
            propertyNames={"enum": [*names, "other"]},
        )

    def _array(self, depth: int) -> dict[str, Json]:
        least = self._random.randint(0, 3)
        schema = self._maybe(
            {"type": "array", "items": self._schema(depth)}, minItems=least, maxItems=least + 2
        )
        return self._maybe(schema, prefixItems=[self._schema(depth), self._schema(depth)])

    def _any_of(self, depth: int) -> dict[str, Json]:
        options = [self._schema(depth) for _ in range(self._random.randint(1, 3))]
        return self._maybe({"anyOf": options}, type=["object", "string", "number", "array"])

    def _one_of(self, depth: int) -> dict[str, Json]:
        """Objects told apart by their kind, or types."""
        if self._random.random() < 0.3:
            return {"oneOf": [{"type": "null"}, {"type": "string"}, self._array(depth)]}
        options = [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "it": self._schema(depth)},
                "required": ["kind"],
            }
            for kind in ("one", "two", 3)
        ]
        return {"oneOf": options}

    def _all_of(self, depth: int) -> dict[str, Json]:
        return {"allOf": [self._object(depth) | {"properties": {"a": self._schema(0)}}, {}]} | (
            self._maybe({}, type="object", required=["a"], properties={"b": self._schema(depth)})
        )

    def _reference(self, _: int) -> dict[str, Json]:
        name = self._random.choice(["tree", "list", "pair", "leaf"])
        return self._maybe({"$ref": f"#/$defs/{name}"}, description="a reference")


class GuidedModel:
    """A model in ONNX Runtime GenAI whose answers keep to a grammar."""

    def __init__(self, folder: Path) -> None:
        self._model = GenAIModel(folder, context_length=4096, threads=1)

    def answer(
        self, rules: list[str], *, prompt: str = "a", seed: int | None = None, tokens: int = 400
    ) -> tuple[bytes, bool]:
        """An answer's bytes, and whether it came to its end; greedy without a seed."""
        grammar = "\n".join(rules) + "\n"
        said = list(guided.answer(self._model, grammar, prompt, tokens, seed=seed))
        whole = said[-1] in self._model.end_tokens
        return b"".join(map(self._model.tokenizer.bytes_of, said[: len(said) - whole])), whole


def check(schema: Json, text: str, *, draft7: bool = False) -> None:
    """Assert that a text is JSON that fits a schema, and can be sent."""
    value = json.loads(text, parse_constant=_no_constant)
    json.dumps(value, ensure_ascii=False).encode()
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    (DRAFT_7 if draft7 else DRAFT_2020)(schema, format_checker=formats).validate(value)


def _multiple_of(validator: Any, step: Any, value: Json, schema: Json) -> Iterator[ValidationError]:
    """The keyword as the standard has it: for the package, 0.07 / 0.01 is not 7."""
    if validator.is_type(value, "number") and Fraction(repr(value)) % Fraction(repr(step)):
        yield ValidationError(f"{value} is not a multiple of {step}")


DRAFT_2020 = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"multipleOf": _multiple_of}
)
DRAFT_7 = jsonschema.validators.extend(jsonschema.Draft7Validator, {"multipleOf": _multiple_of})


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")
