"""Block-wise integer weights: what codes, scales and zero points stand for."""

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize

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


def _q4_0(weight: torch.Tensor) -> torch.Tensor:
    kind = GGMLQuantizationType.Q4_0
    return torch.from_numpy(dequantize(quantize(weight.numpy(), kind), kind))


def test_a_grid_that_the_weights_lie_on_is_found_and_kept() -> None:
    weight = _q4_0(_weight(24, 128))
    found = blocks.own_scale(weight.reshape(24, 4, 32))
    assert (found != 0).all()
    own = nearest(weight, bits=4, block_size=32, symmetric=True, own=True)
    torch.testing.assert_close(own.dequantize(), weight, rtol=1e-6, atol=0)


def test_a_grid_is_found_after_rounding_to_bfloat16() -> None:
    weight = _q4_0(_weight(64, 128))
    own = nearest(weight.bfloat16(), bits=4, block_size=32, symmetric=True, own=True)
    exact = nearest(weight, bits=4, block_size=32, symmetric=True, own=True)
    assert torch.equal(own.codes, exact.codes)


@pytest.mark.parametrize("levels", [range(-7, 8), range(-8, 8), range(-3, 3)])
def test_a_grid_of_a_whole_row_is_one_of_its_blocks(levels: range) -> None:
    # A block need not have the row's largest weight, as with one scale for each channel.
    chosen = torch.randint(levels.start, levels.stop, (16, 128), generator=torch.manual_seed(0))
    weight = chosen * torch.linspace(0.01, 0.3, 16)[:, None]
    own = nearest(weight, bits=4, block_size=32, symmetric=True, own=True)
    torch.testing.assert_close(own.dequantize(), weight, rtol=1e-6, atol=0)
    searched = nearest(weight, bits=4, block_size=32, symmetric=True)
    assert (searched.dequantize() - weight).norm() > 0.005 * weight.norm()


def test_other_weights_lie_on_no_grid() -> None:
    assert (blocks.own_scale(_weight(1000, 32).bfloat16().float()) == 0).all()
    # One step too many: 17 levels.
    levels = torch.arange(-8.0, 9).repeat(2)[None, :32]
    assert (blocks.own_scale(levels) == 0).all()
    weight = _weight(8, 64)
    own = nearest(weight, bits=4, block_size=32, symmetric=True, own=True)
    assert torch.equal(own.codes, nearest(weight, bits=4, block_size=32, symmetric=True).codes)


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _weight(50, 96)
    whole = nearest(weight, bits=4, block_size=32, symmetric=False)
    dequantized = whole.dequantize()
    monkeypatch.setattr(blocks, "AT_A_TIME", 7 * 96)
    pieces = nearest(weight, bits=4, block_size=32, symmetric=False)
    assert torch.equal(whole.codes, pieces.codes)
    assert torch.equal(whole.dequantize(), dequantized)
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
