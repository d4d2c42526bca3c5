"""Rules for profiles: each key must match its declared type, and some keys depend on others."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

from packager.recipes.providers import refusal
from packager.recipes.recipes import RECIPES
from packager.suggest import nearest


def problems(values: Mapping[str, Any], profile: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """List all problems of a profile, as pairs of key and problem.

    Args:
        values: values of the profile as TOML types.
        profile: struct that declares the keys. Its types carry the bounds of the values; in
            `extra`, `choices` are the valid names, and `words` describe a value with a pattern;
            `key` and `item` describe the entries of a value that may be a table.
    """
    kind = inspect.type_info(profile)
    assert isinstance(kind, inspect.StructType)
    listed = list(_table_problems(kind, values))
    wrong = {key for key, _ in listed}
    fields = {key: value for key, value in values.items() if key not in wrong}
    provider, recipe = fields.get("execution_provider"), RECIPES.get(fields.get("recipe", ""))
    if provider and recipe and (reason := refusal(recipe, provider)):
        listed.append(("recipe", reason))
    length, tokens = fields.get("context_length"), fields.get("max_tokens")
    if length and tokens and tokens >= length:
        listed.append(("max_tokens", f"must be below context_length ({length}), not {tokens}"))
    return listed


def _table_problems(
    kind: inspect.StructType | inspect.TypedDictType, values: Mapping[str, Any], table: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the problems of a table, as pairs of key and problem.

    Args:
        kind: type that declares the keys.
        values: values of the table.
        table: name of the table with a trailing dot; empty for the whole file.
    """
    fields = {field.name: field for field in kind.fields}
    hints = get_type_hints(kind.cls, include_extras=True)
    for key in values:
        if key not in fields:
            yield (
                f"{table}{key}",
                f"unknown {'option' if table else 'key'}{nearest(key, fields)}",
            )
    for key, field in fields.items():
        if key in values:
            yield from _value_problems(f"{table}{key}", values[key], hints[key])
        elif field.required:
            yield f"{table}{key}", "is missing"


def _value_problems(key: str, value: Any, hint: Any) -> Iterator[tuple[str, str]]:
    """Yield the problems of a value, given its annotated type."""
    info = inspect.type_info(hint)
    assert isinstance(info, inspect.Metadata)
    kind, extra = info.type, info.extra or {}
    if isinstance(kind, inspect.StructType | inspect.TypedDictType):
        if isinstance(value, dict):
            yield from _table_problems(kind, value, f"{key}.")
        else:
            yield key, f"must be a table, not {value!r}"
    elif isinstance(value, dict) and "item" in extra:
        yield from _item_problems(key, value, hint, extra)
    elif value in ("", []):
        yield key, "must not be empty"
    elif not _fits(value, hint, extra.get("choices")):
        shown = "a table" if isinstance(value, dict) else repr(value)
        yield key, f"must be {_words(kind, extra)}, not {shown}"


def _item_problems(
    key: str, items: Mapping[str, Any], hint: Any, extra: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the problems of a value that is a table of items by the size of the model."""
    if "0" not in items:
        yield key, 'must begin with "0", the value for the smallest models'
    for name, item in items.items():
        if not _fits({name: 0}, hint, None):
            yield f"{key}.{name}", f"must be {extra['key']}, not {name!r}"
        elif isinstance(item, dict) or not _fits(item, hint, None):
            shown = "a table" if isinstance(item, dict) else repr(item)
            yield f"{key}.{name}", f"must be {extra['item']}, not {shown}"


def _fits(value: Any, hint: Any, choices: Collection[str] | None) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return choices is None or value in choices


def _words(kind: inspect.Type, extra: Mapping[str, Any]) -> str:
    """Describe the valid values of a type."""
    if "words" in extra:
        return str(extra["words"])
    if isinstance(kind, inspect.UnionType):
        (kind,) = (part for part in kind.types if not isinstance(part, inspect.NoneType))
    match kind:
        case inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low} to {high}"
        case inspect.LiteralType(values=choices):
            return f"one of {', '.join(map(str, choices))}"
        case inspect.BoolType():
            return "true or false"
        case _:
            return f"one of {', '.join(extra['choices'])}"
