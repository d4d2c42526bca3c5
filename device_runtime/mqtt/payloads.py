"""Payloads with their heads: time, run, number."""

import itertools
from typing import Any, TypeVar

import msgspec

from device_runtime.mqtt.contract import Payload
from device_runtime.status.report import BOOT_ID, now

_numbers = itertools.count(1)

Kind = TypeVar("Kind", bound=Payload)


def payload(kind: type[Kind], **fields: Any) -> bytes:
    """Encode a payload of a kind; numbers are in the order of the calls, from any thread."""
    return msgspec.json.encode(kind(ts=now(), boot_id=BOOT_ID, seq=next(_numbers), **fields))
