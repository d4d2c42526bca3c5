"""Fuzz the manifest: whatever is in it, it is decoded or refused."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from device_runtime.bundle import manifest as schema
from device_runtime.errors import BundleError
from tests.support.bundles import draft

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**4000, 0.5, 1e300, float("nan")),
    *("", "a", "é" * 255, "a" * 600, "a/" * 40 + "b", "..", "/", "\x00", "\ud800", "\u202e", "\n"),
    *("0" * 64, "manifest.json", "model/a", "1.2.3", "[::1]:80", [], {}, [[]], {"a": {"a": 1}}),
)


NESTED = (b"[" * 5000, b'{"a":' * 5000, b'{"a":[' * 5000)
SEEDS = tuple(schema.encode(draft(machine).manifest) for machine in ("x86_64", None))


def run(data: bytes) -> None:
    with suppress(BundleError):
        manifest = schema.decode(data)
        # What is accepted can be written, and is then the same.
        assert schema.decode(schema.encode(manifest)) == manifest


def seeds() -> Iterator[bytes]:
    for text in SEEDS:
        yield text
        yield json.dumps(json.loads(text)).encode()


def mutate(data: bytes, source: random.Random) -> bytes:
    """Change a value, take one away, or have one twice; what is not JSON gives way to a seed."""
    return mutate_json(data, source.choice(SEEDS), source)


def mutate_json(data: bytes, seed: bytes, source: random.Random) -> bytes:
    """Change a value of a document, or of the seed if it is not one."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = json.loads(seed)
    places = list(values(document))
    if places:
        place, key = source.choice(places)
        change = source.random()
        if change < 0.7:
            place[key] = source.choice(ODD)
        elif change < 0.8:
            del place[key]
        elif isinstance(place, list):
            place.extend(place[:100])
        else:
            place[f"{key}{source.randrange(9)}"] = place[key]
    text = json.dumps(document).encode()
    chance = source.random()
    if chance < 0.02:
        return text.replace(b'": ', b'": ' + source.choice(NESTED), 1)
    if chance < 0.05:
        return text.replace(b'"path"', b'"path": "model/twice", "path"', 1)
    return text


def values(place: Any) -> Iterator[tuple[Any, Any]]:
    """All values of a document, each as the object or the list that has it, and the key there."""
    if isinstance(place, dict | list):
        for key in list(place) if isinstance(place, dict) else range(len(place)):
            yield place, key
            yield from values(place[key])
