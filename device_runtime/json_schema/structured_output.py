"""Answers in JSON: grammars that keep a model to a client's schema.

A grammar is narrower than its schema: all values that it makes fit, but strings, numbers, arrays
and nesting have bounds, so that no model goes on for ever inside one value. What cannot be kept to
is refused by its keyword; see docs/structured-output.md.
"""

from functools import lru_cache
from typing import Any

from device_runtime.json_schema.document import UnsupportedSchemaError
from device_runtime.json_schema.grammar import Grammar

__all__ = ["UnsupportedSchemaError", "any_object_rules", "rules"]


def rules(schema: Any, start: str = "start") -> list[str]:
    """The grammar of the JSON texts that fit a schema, in llguidance's dialect of Lark.

    Args:
        schema: a JSON schema (Draft 2020-12) of a client, decoded from JSON.
        start: name of the rule for a whole text; all other names begin with it.

    Returns:
        Its rules, one a line.

    Raises:
        UnsupportedSchemaError: the grammar would let in what the schema does not, or nothing.
    """
    return Grammar(schema, start).lines


@lru_cache
def any_object_rules(start: str = "start") -> tuple[str, ...]:
    """The grammar of any JSON object, as `rules` gives it."""
    return tuple(rules({"type": "object"}, start))
