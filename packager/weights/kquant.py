"""Scales and zero points fitted by weighted least squares, after llama.cpp's k-quants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packager.weights.blocks import AT_A_TIME, Blocks

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 21
SPREAD = 1.0
"""The search tries `STEPS` grids, from `SPREAD` codes narrower than a block's range to `SPREAD`
codes wider."""


def fit(weight: Tensor, *, bits: int, block_size: int) -> Blocks:
    """Quantize a weight with the smallest error on its large elements, which matter most.

    For each trial scale the codes are rounded and the scale is refitted to them by least squares,
    weighted with |w| + rms(w) as in llama.cpp; the trial with the smallest weighted squared error
    wins. Unlike in llama.cpp, zero points are integers from the start, as they are stored.

    Args:
        weight: weight `[out, in]`, any float dtype.
        bits: bits of a code, 4 or 8.
        block_size: inputs that share a scale.
    """
    import torch

    out, width = weight.shape
    count = -(-width // block_size)
    padded = torch.nn.functional.pad(weight.float(), (0, count * block_size - width))
    pieces = torch.split(padded.reshape(-1, block_size), AT_A_TIME // block_size)
    parts = [_fit(blocks, bits) for blocks in pieces]
    codes, scales, zeros = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Blocks(
        codes=codes.reshape(out, -1)[:, :width].contiguous(),
        scales=scales.reshape(out, count),
        zeros=zeros.reshape(out, count),
        bits=bits,
        block_size=block_size,
    )


def _fit(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit codes `[n, block]`, scales `[n, 1]` and zeros `[n, 1]` to blocks `[n, block]`."""
    import torch

    top = 2**bits - 1
    importance = x.abs() + x.square().mean(-1, keepdim=True).sqrt()
    low = x.amin(-1, keepdim=True).clamp_max(0)
    extent = x.amax(-1, keepdim=True).clamp_min(0) - low
    extent = torch.where(extent == 0, torch.ones_like(extent), extent)
    best = torch.full_like(low, torch.inf)
    codes, zeros = torch.zeros_like(x), torch.zeros_like(low)
    scales = torch.ones_like(low)
    for step in range(STEPS):
        inverse = (top - SPREAD + 2 * SPREAD * step / (STEPS - 1)) / extent
        zero = (-low * inverse).round_().clamp_(0, top)
        code = (x * inverse + zero).round_().clamp_(0, top)
        level = code - zero
        norm = (importance * level * level).sum(-1, keepdim=True)
        scale = (importance * level * x).sum(-1, keepdim=True) / norm.clamp_min(1e-30)
        scale = torch.where(scale > 0, scale, 1 / inverse)
        error = (importance * (level * scale - x).square()).sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better, code, codes)
        scales = torch.where(better, scale, scales)
        zeros = torch.where(better, zero, zeros)
    return codes.to(torch.uint8), scales, zeros.to(torch.uint8)
