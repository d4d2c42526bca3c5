"""The form of an answer in JSON, for the engine's grammar."""

from typing import Any

from device_runtime.errors import RequestError


class UnsupportedSchemaError(RequestError):
    """A schema that the engine cannot keep to.

    Attributes:
        path: where in the schema, `$.properties.a`.
    """

    path = "$"


def bounded(schema: Any) -> dict[str, Any]:
    """The schema as the engine takes it; what the engine cannot do, it refuses by its keyword.

    Raises:
        UnsupportedSchemaError: it is no object.
    """
    if not isinstance(schema, dict):
        raise UnsupportedSchemaError("a schema is an object")
    return dict(schema)


def json_object() -> dict[str, Any]:
    """The schema of any object."""
    return {"type": "object"}
