"""Answers in JSON: whatever a model would like to say, they fit the client's schema.

The tiny model is random and sampled at temperature 1: it tries everything that a grammar lets in.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime.inference.engine import FinishReason, GenerationRequest, Guidance
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.json_schema.document import UnsupportedSchemaError
from device_runtime.json_schema.grammar import any_object_rules, rules
from tests.support import schemas
from tests.support.schemas import GuidedModel, RandomSchemas
from tests.support.schemas_at_bounds import ZOD, Asker

SCHEMAS = 120
TOKENS = 300


@pytest.fixture(scope="module")
def model(tiny_onnx: Path) -> GuidedModel:
    return GuidedModel(tiny_onnx)


@pytest.mark.slow
def test_random_schemas_are_kept_or_refused(model: GuidedModel) -> None:
    kept = refused = cut = 0
    for seed in range(SCHEMAS):
        schema = RandomSchemas(seed).make()
        try:
            grammar = rules(schema)
        except UnsupportedSchemaError as error:
            assert error.keyword
            assert error.path.startswith("$")
            refused += 1
            continue
        for tries in (None, seed):
            data, whole = model.answer(grammar, seed=tries, tokens=TOKENS)
            if whole:
                schemas.check(schema, data.decode())
                kept += 1
            else:
                cut += 1
    # The generator mixes much that cannot be kept to; of the rest, most answers come to their end.
    assert refused < SCHEMAS * 2 / 3
    assert kept > cut


STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
        "height": {"type": "number", "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3]}, "maxItems": 3},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "age", "height", "tags", "parent"],
    "additionalProperties": False,
}


def test_strict_schema_of_openai(model: GuidedModel) -> None:
    whole = [model.answer(rules(STRICT), seed=seed, tokens=600) for seed in range(5)]
    done = [data for data, ended in whole if ended]
    assert done
    for data in done:
        schemas.check(STRICT, data.decode())


def test_any_object(model: GuidedModel) -> None:
    answers = [model.answer(list(any_object_rules()), seed=seed, tokens=1500) for seed in range(6)]
    done = [json.loads(data) for data, whole in answers if whole]
    assert done
    assert all(isinstance(value, dict) for value in done)


SCRIPTS = [
    "^é{3}$", "^[a-zß]{2,5}$", "^[\u4e00-\u9fa5]{1,4}$", "^\u65e5\u672c$",
    "^[\\u2028\\u2029]{1,4}$", "^(\u65e5|\u672c)[^\u65e5]$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SCRIPTS)
def test_patterns_of_other_scripts(model: GuidedModel, pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    for seed in range(20):
        data, whole = model.answer(rules(schema), seed=seed, tokens=100)
        assert whole
        schemas.check(schema, data.decode())


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "string", "pattern": "(?<=a)b"}, "pattern"),
        ({"type": "number", "multipleOf": 0.7}, "multipleOf"),
        ({"type": "number", "multipleOf": 1e-7}, "multipleOf"),
        ({"type": "array", "items": [{}], "prefixItems": [{}]}, "items"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "maximum"),
        ({"type": "string", "minLength": 10**9}, "minLength"),
        ({"type": "object", "additionalProperties": {}, "minProperties": 2}, "minProperties"),
        ({"$ref": "http://example.org/other"}, "$ref"),
        ({"$ref": "#/$defs/none"}, "$ref"),
        ({"type": "object", "properties": {f"p{n}": {} for n in range(401)}}, "properties"),
        ({"enum": []}, "enum"),
        ({"type": "text"}, "type"),
        (False, ""),
        (3, ""),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_its_keyword(schema: Any, keyword: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        rules(schema)
    assert keyword in caught.value.keyword or keyword in str(caught.value)


def test_names_and_values_are_written_as_they_are(model: GuidedModel) -> None:
    schema = {
        "type": "object",
        "properties": {"温度": {"type": "integer"}, "unit\x7f": {"enum": ["°C", "😀", "\u2028"]}},
        "required": ["温度", "unit\x7f"],
        "additionalProperties": {"type": "null"},
    }
    for seed in range(20):
        data, whole = model.answer(rules(schema), seed=seed, tokens=1500)
        assert whole
        schemas.check(schema, data.decode())
        assert data.decode().startswith('{"温度": ')


@pytest.mark.parametrize("counts", [{"minProperties": 3}, {"maxProperties": 4}, {}])
def test_number_of_many_optional_properties_is_kept(
    model: GuidedModel, counts: dict[str, int]
) -> None:
    properties = {f"p{number}": {"type": "boolean"} for number in range(400)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False} | counts
    for seed in range(5):
        data, whole = model.answer(rules(schema), seed=seed, tokens=1500)
        assert whole
        schemas.check(schema, data.decode())


def test_options_told_apart_by_their_first_property_may_have_many_others(
    model: GuidedModel,
) -> None:
    others = {f"p{number}": {"type": "boolean"} for number in range(25)}
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": number}, **others},
            "required": ["kind"],
            "additionalProperties": False,
        }
        for number in range(40)
    ]
    data, whole = model.answer(rules({"oneOf": options}), seed=1, tokens=1500)
    assert whole
    schemas.check({"oneOf": options}, data.decode())


def test_running_out_of_tokens_inside_json_is_length(tiny_onnx: Path) -> None:
    engine = GenAIEngine(tiny_onnx, context_length=512, threads=1)
    guidance = Guidance(kind="lark_grammar", data="\n".join(rules(STRICT)) + "\n")
    *_, last = engine.generate(
        GenerationRequest(prompt="a", max_tokens=5, guidance=guidance), lambda: False
    )
    assert last.finish_reason == FinishReason.LENGTH


NULL = {"type": "null"}
BOUNDS = [
    {"type": kind, f"min{word}": least, f"max{word}": most, **more}
    for kind, word, mores in (
        ("array", "Items", ({}, {"items": NULL}, {"prefixItems": [NULL], "items": NULL})),
        ("string", "Length", ({}, {"pattern": "^a*$"}, {"pattern": "b?"})),
        ("object", "Properties", ({}, {"properties": {"a": NULL}},
                                  {"properties": {"a": NULL}, "additionalProperties": NULL})),
    )
    for more in mores
    for least, most in ((0, 0), (0, 1), (1, 1))
]  # fmt: skip
QUANTIFIED = [
    {"type": "string", "pattern": f"^{atom}{quantifier}$", "maxLength": 4}
    for atom in ("a", "[ab]", "(ab|c)", "é")
    for quantifier in ("{0}", "{0,0}", "{0,1}", "{1}", "{1,1}", "{0,}", "{1,}", "?", "*", "+")
]


@pytest.mark.parametrize("schema", [*BOUNDS, *QUANTIFIED], ids=str)
def test_bounds_of_nought_and_one(model: GuidedModel, schema: dict[str, Any]) -> None:
    whole = 0
    for seed in range(4):
        # Also as one of several, where its parts come after others.
        pair = {"type": "array", "prefixItems": [schema, schema], "items": False, "minItems": 2}
        for checked in (schema, pair):
            data, ended = model.answer(rules(checked), seed=seed, tokens=600)
            if ended:
                schemas.check(checked, data.decode())
            whole += ended
    assert whole


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "<|im_end|>"},
        {"const": "<|im_start|>x"},
        {"enum": ["<|endoftext|>", "<|im_start|>"]},
        {"enum": ["ä", "ö"]},
        {"type": "string", "pattern": "^[äö]$"},
        {"type": "string", "pattern": "^<\\|im_end\\|>$"},
        {
            "type": "object",
            "properties": {"<|im_end|>": {"const": "é"}, "ä": {"const": 1}},
            "required": ["<|im_end|>", "ä"],
        },
    ],
    ids=str,
)
def test_forced_text_comes_out_as_text(engine: GenAIEngine, schema: dict[str, Any]) -> None:
    for seed in (None, 1, 2):
        text, reason = guided(engine, rules(schema), seed=seed)
        assert reason is FinishReason.STOP
        schemas.check(schema, text)


def guided(
    engine: GenAIEngine,
    lines: list[str],
    *,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    free_until: str = "",
) -> tuple[str, FinishReason | None]:
    """An answer's text, and how it ended; greedy without a seed."""
    request = GenerationRequest(
        prompt="a",
        max_tokens=200,
        stop=stop,
        temperature=0 if seed is None else 1,
        seed=seed,
        guidance=Guidance(kind="lark_grammar", data="\n".join(lines) + "\n", free_until=free_until),
    )
    *chunks, last = engine.generate(request, lambda: False)
    return "".join(chunk.text for chunk in (*chunks, last)), last.finish_reason


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path) -> GenAIEngine:
    return GenAIEngine(tiny_onnx, context_length=512, threads=1)


def test_stop_strings_do_not_cut_json(engine: GenAIEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"const": "x}END"}}, "required": ["a"]}
    for stop in (("}",), ("END", '"'), (": ",)):
        assert guided(engine, rules(schema), stop=stop) == ('{"a": "x}END"}', FinishReason.STOP)


def test_stop_strings_cut_the_free_text_before_a_call_alone(engine: GenAIEngine) -> None:
    for text, stop, wanted in (
        ("Well: <call>{:}", (":",), "Well"),
        ("Well <call>{:}", (":", "{"), "Well <call>{:}"),
        ("Well <call>{:}", ("<",), "Well <call>{:}"),
        ("Well <c", ("<",), "Well "),
    ):
        lines = [f"start: {json.dumps(text)}"]
        assert guided(engine, lines, stop=stop, free_until="<call>") == (wanted, FinishReason.STOP)


@pytest.mark.parametrize("name", ZOD)
def test_what_zod_writes_beside_a_format_is_kept_to(model: GuidedModel, name: str) -> None:
    schema = {"type": "string", "format": name, "pattern": ZOD[name]}
    done = 0
    for seed in range(10):
        data, whole = model.answer(rules(schema), seed=seed, tokens=300)
        if whole:
            schemas.check(schema, data.decode())
        done += whole
    assert done > 5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d)(?=.*[!@])[^\s]{4,9}$"},
        {"type": "string", "pattern": r"^(?!admin$|root$)[a-z]{4}$"},
        {"type": "string", "pattern": "^a", "allOf": [{"pattern": "b$"}], "maxLength": 9},
        {"type": "string", "pattern": "^[ab]+$", "enum": ["ab", "cd", "日本"]},
        {"type": "string", "format": "a-format", "example": 1, "maxLength": 5},
        {"type": "string", "contentEncoding": "base64", "x-order": 1, "then": {}, "maxLength": 5},
        *({"type": "number", "multipleOf": step} for step in (1, 8, 0.01, 0.25, 2.5, 1e-6)),
        {"type": "number", "multipleOf": 0.7, "minimum": -3, "maximum": 3},
        {"type": "number", "multipleOf": 0.5, "allOf": [{"multipleOf": 0.2}]},
        {"type": "integer", "multipleOf": 2.5},
    ],
    ids=str,
)
def test_keywords_are_kept_to(model: GuidedModel, schema: dict[str, Any]) -> None:
    for seed in range(10):
        data, whole = model.answer(rules(schema), seed=seed, tokens=100)
        assert whole
        schemas.check(schema, data.decode())


def test_tuples_of_draft_7(model: GuidedModel) -> None:
    first: list[Any] = [{"type": "string", "maxLength": 3}, {"type": "integer"}]
    for more in ({"additionalItems": False}, {"additionalItems": NULL, "maxItems": 4}, {}):
        schema = {"type": "array", "items": first, "minItems": 2, **more}
        for seed in range(10):
            data, whole = model.answer(rules(schema), seed=seed, tokens=100)
            assert whole
            schemas.check(schema, data.decode(), draft7=True)


def test_schemas_at_their_bounds(tiny_onnx: Path) -> None:
    """A sample of what `make soak` asks for."""
    asker = Asker(tiny_onnx)
    for seed in range(90):
        asker.ask(seed)
    assert asker.count["valid"] > 45
