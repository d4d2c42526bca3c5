"""The codes of GGUF tensors: they stand for what the gguf package decodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize

from packager.weights import gguf_codes
from packager.weights.blocks import Blocks

EXACT = ["Q4_0", "Q8_0", "Q3_K"]
OFFSET = ["Q4_1", "Q2_K", "Q4_K"]
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2)}
"""Where the scales in half precision are in the blocks of types that gguf cannot quantize to."""


def _tensor(name: str, rows: int = 24, blocks: int = 4) -> Any:
    """Random bytes, with scales such that the weights are like those of a model."""
    random = np.random.default_rng(0)
    kind = GGMLQuantizationType[name]
    if name not in SCALES:
        return quantize(random.normal(0.01, 0.1, (rows, 32 * blocks)).astype(np.float32), kind)
    size = GGML_QUANT_SIZES[kind][1]
    data = random.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for place in SCALES[name]:
        scale = random.uniform(0.001, 0.002, (rows, blocks, 1)).astype(np.float16)
        data[..., place : place + 2] = scale.view(np.uint8)
    if name == "Q4_K":
        # Minima are about as large as the weights: 8 codes.
        data[..., 2:4] = (scale * 7).view(np.uint8)
    return data.reshape(rows, -1)


def _floats(data: Any, name: str) -> torch.Tensor:
    return torch.from_numpy(dequantize(data, GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", EXACT)
def test_codes_with_a_fixed_zero_point_are_kept_bit_for_bit(name: str) -> None:
    data = _tensor(name)
    weight = gguf_codes.decode(data, name)
    assert weight.offsets is None
    assert (weight.zeros == 1 << (weight.bits - 1)).all()
    assert torch.equal(weight.dequantize(), _floats(data, name))


@pytest.mark.parametrize("name", OFFSET)
def test_offsets_make_up_for_integer_zero_points(name: str) -> None:
    data = _tensor(name)
    weight = gguf_codes.decode(data, name)
    floats = _floats(data, name)

    def error(form: Blocks) -> float:
        return float((form.dequantize() - floats).square().sum() / floats.square().sum())

    assert weight.bits == 4
    assert error(weight) < 1e-3
    assert error(weight) < error(replace(weight, offsets=None)) / 50


def test_every_type_is_tried() -> None:
    assert sorted([*EXACT, *OFFSET]) == sorted(gguf_codes.DECODED)


def test_blocks_whose_weights_are_all_the_same() -> None:
    data = quantize(np.full((2, 64), 0.5, np.float32), GGMLQuantizationType.Q4_1)
    weight = gguf_codes.decode(data, "Q4_1")
    torch.testing.assert_close(weight.dequantize(), torch.full((2, 64), 0.5))


@pytest.mark.parametrize("name", [*EXACT, *OFFSET])
def test_scales_that_are_not_finite_are_refused(name: str) -> None:
    data = _tensor(name)
    place = SCALES.get(name, (0,))[0]
    data[0, place : place + 2] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(ValueError, match="not finite"):
        gguf_codes.decode(data, name)


@pytest.mark.parametrize("name", [*EXACT, *OFFSET])
def test_the_stored_size_is_the_one_forecast(name: str) -> None:
    weight = gguf_codes.decode(_tensor(name), name)

    def bits(form: Blocks) -> float:
        zeros = 0 if weight.offsets is None else form.zeros.numel() * form.bits
        return form.codes.numel() * form.bits + form.scales.numel() * 16 + zeros

    total = bits(weight) + (bits(weight.offsets) if weight.offsets is not None else 0)
    # Offsets come in blocks too, and the last is not full in so small a matrix.
    assert total / weight.codes.numel() == pytest.approx(gguf_codes.stored_bits(name), rel=0.03)
