"""Tools that a model may call."""

from typing import Any

import msgspec

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Schema of a tool that declares no parameters."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call.

    Attributes:
        name: name, unique in its request; letters, digits, `_` and `-`.
        description: purpose of the function; may be empty.
        parameters: JSON schema of the arguments, of the type `object`.
        strict: whether the arguments must conform to that schema.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: NO_PARAMETERS)
    strict: bool = False

    @property
    def definition(self) -> dict[str, Any]:
        """The tool in the form that chat templates take."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request, and how the model may use them.

    Attributes:
        tools: the tools that may be called; empty if none may be.
        required: whether the answer must be one or more calls and nothing else.
        parallel: whether an answer may have several calls.
        formed: whether an answer without calls has a form of its own, such as JSON.
    """

    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True
    formed: bool = False
