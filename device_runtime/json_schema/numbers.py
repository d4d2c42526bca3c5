"""Regular expressions for the numbers of a range, with a bound on their digits."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

DIGITS = 15
"""Most digits of a number: decimal numbers of 15 digits are all different as doubles, so that none
passes a bound by rounding. There are no exponents; a small model may write them without end."""

DECIMALS = 6
"""Most digits after the point: 0.1 m in degrees of latitude, a millionth of a probability."""

MAX_LISTED = 200
"""Most multiples that are listed one by one."""

_LARGEST = 10**DIGITS - 1
_UNIT = 10**DECIMALS
# From here on, all digits are before the point.
_WHOLE_FROM = 10 ** (DIGITS - DECIMALS)
_EXACT = Context(prec=400)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between bounds, None for none.

    Attributes:
        low: the lower bound.
        high: the upper bound.
        above: the lower bound itself is not one of them.
        below: nor the upper.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    above: bool = False
    below: bool = False

    def __and__(self, other: "Range") -> "Range":
        low, above = _tighter((self.low, self.above), (other.low, other.above), 1)
        high, below = _tighter((self.high, self.below), (other.high, other.below), -1)
        return Range(low=low, high=high, above=above, below=below)

    @property
    def empty(self) -> bool:
        """True if no number is between the bounds."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.above or self.below))

    def __contains__(self, number: Decimal) -> bool:
        return not (self & Range(low=number, high=number)).empty

    def scaled(self, unit: int) -> tuple[int, int]:
        """First and last number in parts of 1 / unit; the first is greater if there is none."""
        first, last = -_LARGEST * unit, _LARGEST * unit
        if self.low is not None and self.low >= -_LARGEST:
            low = min(self.low, Decimal(_LARGEST + 1))
            at = _EXACT.multiply(low, Decimal(unit))
            first = int(at.to_integral_value(ROUND_CEILING)) + (self.above and at == int(at))
        if self.high is not None and self.high <= _LARGEST:
            high = max(self.high, Decimal(-_LARGEST - 1))
            at = _EXACT.multiply(high, Decimal(unit))
            last = int(at.to_integral_value(ROUND_FLOOR)) - (self.below and at == int(at))
        return first, last


EVERY = Range()
NUMBER_FORMATS = {
    "int32": Range(low=Decimal(-(2**31)), high=Decimal(2**31 - 1)),
    "int64": EVERY,
    "float": EVERY,
    "double": EVERY,
}
"""OpenAPI's formats of numbers: all but the first have room for all numbers made here."""


def integers(within: Range) -> tuple[str, ...] | None:
    """Integers of a range.

    Returns:
        Regular expressions that all match; None if there is no such integer.
    """
    regex = _signed(*within.scaled(1), _whole)
    return None if regex is None else (regex,)


def multiples(within: Range, multiple: Fraction) -> tuple[str, ...] | None:
    """Numbers of a range that are multiples of a number, as `integers` gives them.

    Raises:
        ValueError: the multiples are too many to list, and their last digits do not tell them.
    """
    places = next((n for n in range(DECIMALS + 1) if 10**n % multiple.denominator == 0), None)
    if places is None:
        raise ValueError(f"a multiple of more than {DECIMALS} decimals")
    first, last = within.scaled(10**places)
    step = int(multiple * 10**places)
    least, greatest = -(-first // step), last // step
    if greatest - least < MAX_LISTED:
        listed = (Decimal(number * step).scaleb(-places) for number in range(least, greatest + 1))
        fit = [number for number in listed if abs(number) < _WHOLE_FROM or number % 1 == 0]
        return ("|".join(_plain(number) for number in fit),) if fit else None
    whole = decimals(within) if places else integers(within)
    if whole is None:
        return None
    return (*whole, f"-?({_ending(step, places)})")


def decimals(within: Range) -> tuple[str, ...] | None:
    """Numbers of a range that have few enough digits, as `integers` gives them."""
    regex = _signed(*within.scaled(_UNIT), _decimal)
    return None if regex is None else (regex,)


def _tighter(
    first: tuple[Decimal | None, bool], second: tuple[Decimal | None, bool], sign: int
) -> tuple[Decimal | None, bool]:
    """The bound that leaves less; lower ones for sign 1, upper ones for -1."""
    if first[0] is None or second[0] is None:
        return second if first[0] is None else first
    return max(first, second, key=lambda bound: (sign * (bound[0] or Decimal(0)), bound[1]))


def _signed(first: int, last: int, unsigned: Callable[[int, int], str]) -> str | None:
    parts = []
    # No -0: some readers take it for an integer and some do not. A part is empty where a range has
    # no number of few enough digits.
    if first < 0 and first <= last and (below := unsigned(max(1, -last), -first)):
        parts.append(f"-({below})")
    if last >= 0 and first <= last and (above := unsigned(max(0, first), last)):
        parts.append(above)
    return "|".join(parts) or None


def _whole(first: int, last: int) -> str:
    """Integers, 0 <= first <= last."""
    parts = []
    for digits in range(len(str(first)), len(str(last)) + 1):
        low = max(first, 10 ** (digits - 1) if digits > 1 else 0)
        high = min(last, 10**digits - 1)
        parts.append(_between(str(low), str(high)))
    return "|".join(parts)


def _between(low: str, high: str) -> str:
    """Strings of as many digits as both have."""
    rest = len(low) - 1
    if rest < 0:
        return ""
    if low[0] == high[0] and (int(low[1:] or 0) or int(high[1:] or 0) < 10**rest - 1):
        return low[0] + _group(_between(low[1:], high[1:]))
    parts = []
    first, last = int(low[0]), int(high[0])
    if int(low[1:] or 0):
        parts.append(low[0] + _group(_between(low[1:], "9" * rest)))
        first += 1
    if int(high[1:] or 0) < 10**rest - 1:
        parts.append(high[0] + _group(_between("0" * rest, high[1:])))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return "|".join(parts)


def _decimal(first: int, last: int) -> str:
    """Numbers of units, 0 <= first <= last, that may have a fraction while they are small."""
    parts = []
    if first < _WHOLE_FROM * _UNIT:
        parts.append(_fractional(first, min(last, _WHOLE_FROM * _UNIT - 1)))
    first_whole, last_whole = max(-(-first // _UNIT), _WHOLE_FROM), last // _UNIT
    if first_whole <= last_whole:
        parts.append(_whole(first_whole, last_whole))
    return "|".join(parts)


def _fractional(first: int, last: int) -> str:
    low, low_rest = divmod(first, _UNIT)
    high, high_rest = divmod(last, _UNIT)
    zeros, nines = "0" * DECIMALS, "9" * DECIMALS
    low_digits, high_digits = (str(rest).zfill(DECIMALS) for rest in (low_rest, high_rest))
    if low == high:
        return str(low) + _fraction(low_digits, high_digits)
    parts = []
    if low_rest:
        parts.append(str(low) + _fraction(low_digits, nines))
        low += 1
    if high_digits != nines:
        parts.append(str(high) + _fraction(zeros, high_digits))
        high -= 1
    if low <= high:
        parts.append(_group(_whole(low, high)) + _fraction(zeros, nines))
    return "|".join(parts)


def _fraction(low: str, high: str) -> str:
    """A point and digits that, with zeros after them, are between; nothing where that is."""
    fraction = rf"(\.{_group(_digits(low, high))})"
    return fraction if int(low) else fraction + "?"


def _digits(low: str, high: str) -> str:
    """At least one digit, at most as many as both have."""
    rest = len(low) - 1
    if low[0] == high[0] and (int(low[1:] or 0) or int(high[1:] or 0) < 10**rest - 1):
        return low[0] + _more_digits(low[1:], high[1:])
    parts = []
    first, last = int(low[0]), int(high[0])
    if int(low[1:] or 0):
        parts.append(low[0] + _more_digits(low[1:], "9" * rest))
        first += 1
    if int(high[1:] or 0) < 10**rest - 1:
        parts.append(high[0] + _more_digits("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f"[0-9]{{0,{rest}}}" if rest else ""))
    return "|".join(parts)


def _more_digits(low: str, high: str) -> str:
    if not low:
        return ""
    digits = _group(_digits(low, high))
    return digits if int(low) else digits + "?"


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace(".", r"\.")


def _ending(step: int, places: int) -> str:
    """Numbers without a sign whose value in units of the last place is a multiple of the step."""
    digits = next((n for n in range(4) if 10**n % step == 0), None)
    if digits is None:
        raise ValueError("there are too many multiples here, and no last digits that they share")
    if digits > places:
        return "|".join(_with_ending(last, digits, places) for last in range(0, 10**digits, step))
    free = places - digits
    fractions = [f"[0-9]{{1,{free}}}"] if free else []
    for count in range(1, digits + 1):
        unit = 10 ** (digits - count)
        endings = [str(n).zfill(count) for n in range(10**count) if n * unit % step == 0]
        fractions.append(f"[0-9]{{{free}}}({'|'.join(endings)})")
    return "[0-9]+" + (rf"(\.({'|'.join(fractions)}))?" if fractions else "")


def _with_ending(last: int, digits: int, places: int) -> str:
    """Numbers that end with these digits, of which so many are after the point."""
    whole, fraction = divmod(last, 10**places)
    text = rf"({whole}|[1-9][0-9]*{str(whole).zfill(digits - places)})"
    after = str(fraction).zfill(places).rstrip("0")
    if after:
        return rf"{text}\.{after}0{{0,{places - len(after)}}}"
    return text + (rf"(\.0{{1,{places}}})?" if places else "")


def _group(regex: str) -> str:
    return f"({regex})" if regex else ""
