"""A tool that a model may call."""

from typing import Any

import msgspec

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of a tool that declares no parameters."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call.

    Attributes:
        name: unique in its request; letters, digits, `_` and `-`.
        description: what it does; may be empty.
        parameters: JSON schema of its arguments, an object's.
        strict: the arguments must keep to that schema.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: NO_PARAMETERS)
    strict: bool = False

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as chat templates take it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about tools.

    Attributes:
        tools: all that may be called; empty where the model must not call any.
        required: the answer is one or more calls and nothing else.
        parallel: an answer may have several calls.
    """

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True
