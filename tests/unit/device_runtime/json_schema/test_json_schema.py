"""Grammars of JSON schemas, as far as they can be judged without an engine."""

import random
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest

from device_runtime.json_schema import pattern_search as search
from device_runtime.json_schema.document import UnsupportedSchemaError
from device_runtime.json_schema.grammar import rules
from device_runtime.json_schema.numbers import Range, decimals, integers, multiples
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
