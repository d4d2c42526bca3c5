"""Block-wise integer weights: what codes, scales and zero points stand for."""

import pytest
import torch

from packager.weights import blocks
from packager.weights.blocks import Blocks, nearest


def _weight(out: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def test_dequantize_is_scale_times_code_minus_zero() -> None:
    made = Blocks(
        codes=torch.tensor([[0, 15, 3, 8]], dtype=torch.uint8),
        scales=torch.tensor([[0.5, -2.0]]),
        zeros=torch.tensor([[5, 8]], dtype=torch.uint8),
        bits=4,
        block_size=2,
    )
    assert made.dequantize().tolist() == [[-2.5, 5.0, 10.0, 0.0]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "limit"), [(4, 0.012), (8, 5e-5)])
def test_nearest_is_near(bits: int, limit: float, symmetric: bool) -> None:
    weight = _weight(24, 128)
    made = nearest(weight, bits=bits, block_size=32, symmetric=symmetric)
    assert made.codes.shape == (24, 128)
    assert made.scales.shape == made.zeros.shape == (24, 4)
    error = (made.dequantize() - weight).square().sum() / weight.square().sum()
    assert 0 < error < limit


def test_symmetric_zero_points_are_the_middle_code() -> None:
    made = nearest(_weight(8, 64), bits=4, block_size=16, symmetric=True)
    assert torch.unique(made.zeros).tolist() == [8]


def test_zero_points_pay_where_weights_are_one_sided() -> None:
    weight = _weight(8, 64).abs()
    errors = [
        (nearest(weight, bits=4, block_size=32, symmetric=symmetric).dequantize() - weight).norm()
        for symmetric in (False, True)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_weights_on_a_grid_come_back_exactly() -> None:
    codes = torch.arange(16.0).repeat(3, 4)
    weight = (codes - 5) * 0.25
    made = nearest(weight, bits=4, block_size=16, symmetric=False)
    assert torch.equal(made.dequantize(), weight)


def test_zeros_stay_zero() -> None:
    made = nearest(torch.zeros(2, 32), bits=4, block_size=16, symmetric=False)
    assert torch.equal(made.dequantize(), torch.zeros(2, 32))


def test_the_last_block_may_be_shorter() -> None:
    weight = _weight(4, 40)
    made = nearest(weight, bits=4, block_size=32, symmetric=False)
    alone = nearest(weight[:, 32:], bits=4, block_size=32, symmetric=False)
    assert made.codes.shape == (4, 40)
    assert torch.equal(made.dequantize()[:, 32:], alone.dequantize())


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _weight(50, 96)
    whole = nearest(weight, bits=4, block_size=32, symmetric=False)
    monkeypatch.setattr(blocks, "AT_A_TIME", 7 * 96)
    pieces = nearest(weight, bits=4, block_size=32, symmetric=False)
    assert torch.equal(whole.codes, pieces.codes)
    assert torch.equal(whole.scales, pieces.scales)


def test_important_weights_come_out_better() -> None:
    weight = _weight(64, 32)
    importance = torch.ones(32)
    importance[:4] = 1000
    errors = []
    for given in (torch.ones(32), importance):
        scale, zero = blocks.grid(weight, bits=4, symmetric=False, importance=given)
        codes = blocks.encode(weight, scale, zero, bits=4)
        errors.append(float(((codes - zero) * scale - weight)[:, :4].norm()))
    assert errors[1] < errors[0]
