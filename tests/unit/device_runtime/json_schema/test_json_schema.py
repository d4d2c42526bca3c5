"""Grammars of JSON schemas, as far as they can be judged without an engine."""

import random
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from device_runtime.json_schema import pattern_search as search
from device_runtime.json_schema.document import UnsupportedSchemaError, without
from device_runtime.json_schema.grammar import any_object_rules, loose_rules, rules
from device_runtime.json_schema.numbers import Range, decimals, integers, multiples
from device_runtime.json_schema.pattern_tree import Both, PatternError
from device_runtime.json_schema.patterns import read

BOUNDS = ("0", "1", "-5", "0.5", "-273.15", "0.001", "1e9", "-1e9", "999999999.5", "-1000000001")
WIDTHS = ("0", "1e-7", "1e-6", "0.001", "0.5", "1", "2.5", "100", "1e6", "1e9")
STEPS = ("0", "1e-6", "-1e-6", "0.5", "-0.5", "1", "-1")


def ranges(count: int) -> list[Range]:
    draw = random.Random(7)
    drawn: list[Range] = []
    while len(drawn) < count:
        low = Decimal(draw.choice(BOUNDS))
        within = Range(
            low=low,
            high=low + Decimal(draw.choice(WIDTHS)),
            above=draw.random() < 0.4,
            below=draw.random() < 0.4,
        )
        if not within.empty:
            drawn.append(within)
    return drawn


def near(within: Range) -> set[Decimal]:
    """Numbers of six decimals at the bounds of a range, at its middle and at zero."""
    low, high = within.low or Decimal(0), within.high or Decimal(0)
    places = (low, high, (low + high) / 2, Decimal(0))
    return {(at + Decimal(step)).quantize(Decimal("1e-6")) for at in places for step in STEPS}


def written(number: Decimal) -> str:
    return format(number.normalize(), "f") if number else "0"


def test_decimals_are_those_of_the_range_that_have_few_enough_digits() -> None:
    for within in ranges(2000):
        regexes = decimals(within) or ()
        for number in near(within):
            fine = abs(number) < 10**9 or (number == int(number) and abs(number) < 10**15)
            wanted = fine and number in within
            written_so = any(re.fullmatch(regex, written(number)) for regex in regexes)
            assert written_so == wanted, (within, number)
        assert not any(re.fullmatch(regex, part) for regex in regexes for part in ("", "-"))


def test_integers_are_those_of_the_range() -> None:
    for within in ranges(2000):
        regexes = integers(within) or ()
        for number in map(int, near(within)):
            written_so = any(re.fullmatch(regex, str(number)) for regex in regexes)
            assert written_so == (Decimal(number) in within), (within, number)


MULTIPLES = ("1", "2", "5", "7", "10", "25", "1000", "0.5", "0.25", "0.1", "0.01", "2.5", "12.5",
             "0.3", "0.00005", "0.000001")  # fmt: skip


def test_multiples_are_those_of_the_range_that_have_few_enough_digits() -> None:
    told = Counter[bool]()
    for within in ranges(100):
        for step in map(Decimal, MULTIPLES):
            try:
                regexes = multiples(within, Fraction(step))
            except ValueError as error:
                assert "too many" in str(error)
                continue
            of_step = {(number // step) * step for number in near(within)}
            for number in near(within) | of_step | {number + step for number in of_step}:
                fine = abs(number) < 10**9 or (number == int(number) and abs(number) < 10**15)
                wanted = fine and number in within and number % step == 0
                written_so = regexes is not None and all(
                    re.fullmatch(regex, written(number)) for regex in regexes
                )
                assert written_so == wanted, (within, step, number)
                told[wanted] += 1
    assert min(told.values()) > 1_000


@pytest.mark.parametrize(("step", "text"), [("0.25", "1.50"), ("0.01", "0.10"), ("2.5", "5.0")])
def test_multiples_may_have_zeros_at_their_end(step: str, text: str) -> None:
    regexes = multiples(Range(), Fraction(step)) or ("nothing",)
    assert all(re.fullmatch(regex, text) for regex in regexes)


@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 10**9, "exclusiveMaximum": 10**9 + 1},
        {"exclusiveMinimum": -(10**9) - 1, "maximum": -(10**9) - 0.5},
    ],
)
def test_range_whose_numbers_have_too_many_digits_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(UnsupportedSchemaError, match="leaves no number") as caught:
        rules({"type": "number"} | bounds)
    assert caught.value.path == "$.exclusiveMinimum"


@pytest.mark.parametrize(
    ("pattern", "limit", "lengths"),
    [
        ("^a{3}$", 5, {3}),
        ("^(aa)*$", 5, {0, 2, 4, 6}),
        ("^(ab|c){2,}$", 4, {2, 3, 4, 5}),
        ("x?", 2, {0, 1, 2, 3}),
        (r"^[^\s\S]$", 3, set()),
        ("^a{0,900}b{200}$", 1000, set(range(200, 1002))),
        ("^a{2000}$", 1000, {1001}),
    ],
)
def test_lengths_of_strings_beyond_the_limit_count_as_one_more(
    pattern: str, limit: int, lengths: set[int]
) -> None:
    bits = search.lengths(read(pattern).node, limit)
    assert {length for length in range(bits.bit_length()) if bits >> length & 1} == lengths


LETTERS = "ab1.@-"
RANDOM = random.Random(5)


def random_pattern(depth: int = 2) -> str:
    """A pattern that Python takes as well, now and then with look-aheads at its beginning."""
    atoms = ["a", "b", "1", r"\.", "@", "[ab]", "[^a]", r"\d", r"\w", ".", "-"]
    parts = []
    for _ in range(RANDOM.randint(1, 3)):
        atom = RANDOM.choice(atoms)
        if depth and RANDOM.random() < 0.4:
            options = [random_pattern(depth - 1) for _ in range(RANDOM.randint(1, 2))]
            atom = f"({'|'.join(options)})"
        parts.append(atom + RANDOM.choice(["", "", "", "?", "*", "+", "{2}", "{0,1}", "{1,2}"]))
    return "".join(parts)


def random_look(depth: int = 1) -> str:
    kind = RANDOM.choice(["?=", "?!"])
    return f"({kind}{random_pattern(depth)}{RANDOM.choice(['', '$'])})"


def random_text() -> str:
    return "".join(RANDOM.choices(LETTERS, k=RANDOM.randint(0, 6)))


def test_patterns_match_as_in_python() -> None:
    told = Counter[bool]()
    for _ in range(150):
        pattern = random_pattern()
        for _ in range(RANDOM.randint(0, 2)):
            pattern = random_look() + pattern
        if RANDOM.random() < 0.5:
            pattern = f"a?({random_look()}{random_pattern(1)}|b){pattern}"
        pattern = RANDOM.choice(["^", ""]) + pattern + RANDOM.choice(["$", ""])
        node = read(pattern).node
        for text in [random_text() for _ in range(10)]:
            wanted = re.search(pattern, text) is not None
            assert search.Search().matches(node, text) == wanted, (pattern, text)
            told[wanted] += 1
    assert min(told.values()) > 100


def test_search_finds_a_string_where_there_is_one() -> None:
    told = Counter[bool]()
    texts = [""]
    for _ in range(3):
        texts += [text + letter for text in texts for letter in LETTERS]
    for _ in range(40):
        first, second = f"^{random_look()}{random_pattern()}$", f"^{random_pattern()}$"
        both = Both((read(first).node, read(second).node))
        least = RANDOM.randint(0, 3)
        _, possible = search.Search().lengths(both, least, 3)
        wanted = any(
            len(text) >= least and re.search(first, text) and re.search(second, text)
            for text in texts
        )
        # The letters stand for all those that the patterns do not tell apart, but for a few.
        assert possible >= wanted, (first, second)
        told[possible == wanted] += 1
    assert told[True] > 35


def test_search_that_takes_too_long_is_refused() -> None:
    other = {"pattern": r"^.*b.{150}$"}
    with pytest.raises(UnsupportedSchemaError, match="takes too long") as caught:
        rules({"type": "string", "pattern": "^.*a.{200}$", "allOf": [other], "maxLength": 180})
    assert caught.value.path == "$.allOf[0].pattern"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?<=a)b", "look-behinds"),
        ("(?<!a)b", "look-behinds"),
        ("((?=a))*", "look-ahead"),
        ("(?=a)*", "look-ahead"),
        ("a(?=^b)c", r"\^ is supported only at the ends"),
        ("(?=a)" * 7, "more than 6 look-aheads"),
        ("(?:ab)?" * 31, "repeats more than 30 groups"),
    ],
)
def test_pattern_that_cannot_be_kept_to_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        read(pattern)


def test_patterns_that_no_string_fits_together_are_refused() -> None:
    with pytest.raises(UnsupportedSchemaError, match="fits no string") as caught:
        rules({"type": "string", "format": "date", "pattern": "^[a-z]+$"})
    assert caught.value.path == "$.format"


def loose(schema: dict[str, Any]) -> tuple[str, ...]:
    """Paths of what is left out; the rest of the grammar must be that of the rest."""
    lines, ignored = loose_rules(schema, "start")
    for path in ignored:
        schema = without(schema, tuple(path.removeprefix("$.").split(".")))
    assert lines == rules(schema)
    return ignored


UNIQUE = {"type": "array", "uniqueItems": True, "items": {"type": "string", "maxLength": 5}}


@pytest.mark.parametrize(
    ("schema", "ignored"),
    [
        ({"properties": {"a": UNIQUE}}, ("$.properties.a.uniqueItems",)),
        ({"properties": {"a": {"type": "string"}}, "not": {}}, ("$.not",)),
        ({"properties": {"a": {"type": "string"}}, "required": None}, ("$.required",)),
        ({"properties": {"a": {"type": "string", "pattern": r"\bx"}}}, ("$.properties.a.pattern",)),
        ({"properties": {"a": {"enum": []}}}, ("$.properties.a.enum",)),
        ({"properties": {"a": {"$ref": "#/no"}}}, ("$.properties.a.$ref",)),
        (
            {"properties": {"a": UNIQUE, "b": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}}},
            ("$.properties.a.uniqueItems", "$.properties.b.oneOf"),
        ),
    ],
)
def test_loose_grammar_leaves_out_only_the_keyword(
    schema: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    assert loose({"type": "object", **schema}) == ignored


def test_property_that_is_not_a_schema_may_be_anything() -> None:
    schema = {"type": "object", "properties": {"a": "text", "b": {"const": 1}}}
    lines, ignored = loose_rules(schema, "start")
    assert ignored == ("$.properties.a.schema",)
    assert lines == rules({"type": "object", "properties": {"a": {}, "b": {"const": 1}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{n}": {"not": {}} for n in range(65)}},
        {"type": "object", "description": "x" * 70_000},
        {"type": "object", "enum": [1]},
    ],
)
def test_schema_with_too_much_to_leave_out_means_any_object(schema: dict[str, Any]) -> None:
    lines, ignored = loose_rules(schema, "start")
    if "enum" not in schema:
        assert ignored == ("$",)
    assert lines == list(any_object_rules())
