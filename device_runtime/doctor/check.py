"""The result of a check."""

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check.

    Attributes:
        name: subject of the check.
        status: `fail` prevents the model from running, `warn` may.
        found: state of the device.
        advice: what to do; empty if nothing.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""
