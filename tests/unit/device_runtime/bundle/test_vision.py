"""Bounds of what a manifest says of a model that sees."""

from typing import Any

import msgspec
import pytest

from device_runtime.bundle.vision import Vision

QUALITY = {
    "kl": 0.1,
    "kl_interval": [0.1, 0.1],
    "top1": 0.9,
    "top1_interval": [0.9, 0.9],
    "perplexity": 9.0,
    "reference_perplexity": 9.0,
    "tokens": 10,
}
TRIED = {"weights": "int8", "vision_bytes": 1, "quality": QUALITY, "exceeded": []}
ANSWER = {"picture": "a.png", "prompt": "p", "reference": "r", "quantized": "q"}
VISION = {
    "family": "phi3v",
    "image_tokens": 2653,
    "weights": "int8",
    "quality": QUALITY,
    "tried": [TRIED],
    "answers": [ANSWER],
}


def test_older_bundles_lack_the_newer_fields() -> None:
    assert msgspec.convert(VISION, Vision).tried[0].weights == "int8"
    older = msgspec.convert({"family": "gemma3", "image_tokens": 256}, Vision)
    assert (older.weights, older.quality) == (None, None)
    assert not older.tried
    assert not older.answers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "Phi"),
        ("family", "p" * 33),
        ("image_tokens", 0),
        ("image_tokens", 2**20 + 1),
        ("weights", "int2"),
        ("quality", {**QUALITY, "top1": 1.5}),
        ("tried", [TRIED] * 9),
        ("tried", [{**TRIED, "vision_bytes": -1}]),
        ("tried", [{**TRIED, "exceeded": ["x"] * 33}]),
        ("tried", [{**TRIED, "exceeded": ["a\nb"]}]),
        ("tried", [{**TRIED, "quality": None}]),
        ("answers", [ANSWER] * 101),
        ("answers", [{**ANSWER, "picture": "a\x1b[2J"}]),
        ("answers", [{**ANSWER, "quantized": "a" * 70_000}]),
    ],
)
def test_value_out_of_bounds(name: str, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**VISION, name: value}, Vision)
