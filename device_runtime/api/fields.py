"""Decoding of request bodies, and the checks that all of them share."""

import re
from collections.abc import Collection
from typing import Any, TypeVar

import msgspec

from device_runtime.api.errors import ApiError


def _number(text: str) -> float:
    """Return an integer if the value is one: JSON has one type of number, so 4.0 is an integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


B = TypeVar("B", bound=msgspec.Struct)

_DECODER = msgspec.json.Decoder(float_hook=_number)


def decode(data: bytes) -> dict[str, Any]:
    """Decode a body's fields.

    Raises:
        ApiError: the body is not a JSON object.
    """
    try:
        fields = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError("the body is not a JSON object", code="invalid_json")
    return fields


def check_fields(
    fields: dict[str, Any],
    known: type[msgspec.Struct],
    without_effect: dict[str, tuple[Any, ...]],
    *,
    where: str = "",
    ignored: Collection[str] = (),
) -> None:
    """Refuse unknown fields, unless they are null or have a neutral value.

    Args:
        fields: as received.
        known: struct with all known fields.
        without_effect: unsupported fields, and their neutral values.
        where: path of the fields in the body, with a trailing dot; empty for the body itself.
        ignored: fields that do not affect the answer.

    Raises:
        ApiError: a field is unknown, or has a value that is not neutral.
    """
    for name, value in fields.items():
        if name in known.__struct_fields__ or name in ignored or value is None:
            continue
        if name not in without_effect:
            raise ApiError(
                f"{where}{name} is not supported", param=where + name, code="unsupported_parameter"
            )
        neutral = without_effect[name]
        if not any(type(value) is type(other) and value == other for other in neutral):
            shown = " or ".join(msgspec.json.encode(other).decode() for other in (*neutral, None))
            raise ApiError(
                f"{where}{name} is supported only as {shown}",
                param=where + name,
                code="unsupported_value",
            )


def convert(fields: dict[str, Any], kind: type[B], *, strict: bool = True) -> B:
    """Convert checked fields to a struct.

    Args:
        fields: the fields.
        kind: the struct.
        strict: text is not a number; that of a form may be one.

    Raises:
        ApiError: a field is invalid; the error names it.
    """
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise invalid_value(error) from None


def invalid_value(error: msgspec.ValidationError) -> ApiError:
    """Convert msgspec's error: it ends with "... - at `$.stop[0]`" or "... - at `key` in `$.a`"."""
    parts = re.fullmatch(r"(?s)(.*?)(?: - at (?:`key` in )?`\$\.?(.*)`)?", str(error))
    assert parts is not None
    reason, place = parts[1], parts[2] or None
    if unknown := re.search(r"contains unknown field `(\w+)`", reason):
        place = f"{place}.{unknown[1]}" if place else unknown[1]
        return ApiError(f"{place} is not supported", param=place, code="unsupported_parameter")
    if missing := re.search(r"missing required field `(\w+)`", reason):
        place = f"{place}.{missing[1]}" if place else missing[1]
        return ApiError(f"{place} is required", param=place, code="invalid_value")
    return ApiError(f"{place}: {reason}", param=place, code="invalid_value")
