"""The part of a manifest that describes how a model thinks, and arguments of chat templates."""

from typing import Annotated

from msgspec import Meta

from device_runtime.bundle.fields import Token
from device_runtime.bundle.quantization import Struct

Argument = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}\Z")]
"""The name of an argument of a chat template."""
ArgumentText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}\Z")]
ArgumentNumber = Annotated[int, Meta(ge=-(2**31), le=2**31)]
Value = bool | ArgumentNumber | ArgumentText
"""The value of an argument; a text has no character that means something in a template."""
Marker = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]{1,64}\Z")]


class Reasoning(Struct, frozen=True, kw_only=True):
    """The switch of a model's thoughts, and the texts around them in its answers.

    Attributes:
        begin: text before the thoughts.
        end: text after them.
        begin_tokens: token ids of `begin`; one where it is a token of its own.
        end_tokens: token ids of `end`.
        opened: the prompt ends with `begin`, so that the answer begins with thoughts.
        argument: argument of the chat template that switches thinking; empty if none does.
        on: its value for thinking.
        off: its value for no thinking; None if thinking can only be more or less.
        default: True if the model thinks unless told otherwise.
    """

    begin: Marker
    end: Marker
    begin_tokens: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=64)]
    end_tokens: Annotated[tuple[Token, ...], Meta(min_length=1, max_length=64)]
    opened: bool
    argument: Argument | None = None
    on: Value | None = None
    off: Value | None = None
    default: bool = True
