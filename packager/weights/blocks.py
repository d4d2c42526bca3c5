"""Block-wise integer quantization: a float matrix as codes, scales and zero points.

A weight `[out, in]` is split along its input into blocks; in a block `w = scale * (code - zero)`
with codes of 4 or 8 bits. This is the arithmetic of ONNX Runtime's MatMulNBits and
GatherBlockQuantized; zero points are integers because only those have a fast CPU kernel. What they
cannot express, an offset `w = scale * (code - zero) + offset`, is a quantized matrix of its own: it
multiplies the sums of the inputs over each block (`nbits`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SHRINK = (1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.75, 0.7)
"""Fractions of a block's range that the scale search tries: clipping outliers can cost less than
the coarser steps that they force on all other weights."""

AT_A_TIME = 1 << 18
"""Elements processed together: few enough to fit the processor's cache, which is several times as
fast, and to need negligible memory."""

QUOTIENT_ERROR = 2**-7
"""Largest relative error of the quotient of two numbers that were rounded to bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A quantized weight.

    Attributes:
        codes: integer codes, uint8 `[out, in]`, one per element (not packed).
        scales: scale of each block, float32 `[out, blocks]`.
        zeros: zero point of each block, the code of 0.0, uint8 `[out, blocks]`.
        bits: bits of a code, 4 or 8.
        block_size: inputs that share a scale; the last block may be shorter.
        offsets: number added to all elements of each block, `[out, blocks]`, with the same bits and
            block size; None if it is 0. Only weights of whole blocks have offsets.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    block_size: int
    offsets: Blocks | None = None

    def dequantize(self) -> Tensor:
        """Return the float32 weight `[out, in]` that the codes represent."""
        import torch

        out, width = self.codes.shape
        weight = torch.empty((out, width))
        offsets = self.offsets.dequantize() if self.offsets is not None else None

        def wide(part: Tensor) -> Tensor:
            """Repeat the numbers of some rows' blocks for each of their elements."""
            return part.repeat_interleave(self.block_size, 1)[:, :width]

        step = max(1, AT_A_TIME // width)
        for row in range(0, out, step):
            rows = slice(row, row + step)
            strip = torch.sub(self.codes[rows], wide(self.zeros[rows].float()), out=weight[rows])
            strip.mul_(wide(self.scales[rows]))
            if offsets is not None:
                strip.add_(wide(offsets[rows]))
        return weight

    def form(self) -> tuple[int, int, bool]:
        """Return bits, block size and presence of offsets: weights of one form can be joined."""
        return self.bits, self.block_size, self.offsets is not None

    def rows(self, rows: slice | Tensor) -> Blocks:
        """Return some rows of the weight, or all in another order."""
        return replace(
            self,
            codes=self.codes[rows],
            scales=self.scales[rows],
            zeros=self.zeros[rows],
            offsets=self.offsets.rows(rows) if self.offsets is not None else None,
        )


def joined(parts: Sequence[Blocks]) -> Blocks:
    """Concatenate the rows of weights that have the same inputs.

    Raises:
        ValueError: their bits or block sizes differ, or only some have offsets.
    """
    import torch

    first = parts[0]
    if len({part.form() for part in parts}) > 1:
        raise ValueError("weights of different forms cannot be joined")
    codes, scales, zeros = (
        torch.cat([getattr(part, field) for part in parts])
        for field in ("codes", "scales", "zeros")
    )
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return replace(
        first,
        codes=codes,
        scales=scales,
        zeros=zeros,
        offsets=joined(offsets) if offsets else None,
    )


def beside(parts: Sequence[Blocks]) -> Blocks:
    """Concatenate the columns of weights that have the same rows, and no offsets."""
    import torch

    codes, scales, zeros = (
        torch.cat([getattr(part, field) for part in parts], 1)
        for field in ("codes", "scales", "zeros")
    )
    return replace(parts[0], codes=codes, scales=scales, zeros=zeros)


def nearest(
    weight: Tensor, *, bits: int, block_size: int, symmetric: bool, own: bool = False
) -> Blocks:
    """Round a weight to the nearest codes (RTN), with the best scale of `grid` for each block.

    Args:
        weight: weight `[out, in]`, any float dtype.
        bits: bits of a code, 4 or 8.
        block_size: inputs that share a scale.
        symmetric: fix the zero point at the midpoint of the codes.
        own: take the scale of `own_scale` for blocks that have one; 4 bits, symmetric.
    """
    import torch

    out, width = weight.shape
    count = -(-width // block_size)
    codes = torch.empty((out, width), dtype=torch.uint8)
    scales = torch.empty((out, count), dtype=torch.float32)
    zeros = torch.empty((out, count), dtype=torch.uint8)
    step = max(1, AT_A_TIME // (count * block_size))
    for row in range(0, out, step):
        rows = slice(row, row + step)
        padded = torch.nn.functional.pad(weight[rows].float(), (0, count * block_size - width))
        blocks = padded.reshape(-1, count, block_size)
        scale, zero = grid(blocks, bits=bits, symmetric=symmetric)
        if own:
            own_scales = own_scale(blocks)
            scale = torch.where(own_scales != 0, own_scales, scale)
        codes[rows] = encode(blocks, scale, zero, bits=bits).flatten(1)[:, :width]
        scales[rows] = scale.squeeze(-1)
        zeros[rows] = zero.squeeze(-1)
    return Blocks(codes=codes, scales=scales, zeros=zeros, bits=bits, block_size=block_size)


def eight_bits(weight: Tensor, *, block_size: int) -> Blocks:
    """Round a weight to 8 bits: zero points then bring no measurable gain, and cost speed."""
    return nearest(weight, bits=8, block_size=block_size, symmetric=True)


def encode(blocks: Tensor, scales: Tensor, zeros: Tensor, *, bits: int) -> Tensor:
    """Round `blocks` to uint8 codes on a given grid; shapes must broadcast."""
    import torch

    return (blocks / scales + zeros).round_().clamp_(0, 2**bits - 1).to(torch.uint8)


def own_scale(blocks: Tensor) -> Tensor:
    """Find the scale of the 4-bit grid that a block already lies on, symmetric as in llama.cpp's
    Q4_0: of weights that were trained for a grid, or quantized before and decoded to floats.

    `grid` would find another one, and round what needs no rounding. The block's own is found from
    its largest weight, which is the scale times an integer up to 8.

    Args:
        blocks: weights, float32 `[..., block]`, that may have been rounded to bfloat16.

    Returns:
        Scales, float32 `[..., 1]`; 0 for a block that lies on no grid.
    """
    import torch

    largest = torch.gather(blocks, -1, blocks.abs().argmax(-1, keepdim=True))
    scales = torch.zeros_like(largest)
    for level in range(8, 0, -1):
        # The largest gets the code 8 - level: only on this side there are 8.
        scale = torch.where(largest == 0, torch.ones_like(largest), largest / -level)
        quotients = blocks / scale
        levels = quotients.round()
        exact = (quotients - levels).abs() <= QUOTIENT_ERROR * levels.abs()
        fits = (exact & (levels <= 7)).all(-1, keepdim=True)
        scales = torch.where(fits, scale, scales)
    return scales


def grid(
    blocks: Tensor, *, bits: int, symmetric: bool, importance: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Find the scale and zero point of each block with the smallest squared error.

    Args:
        blocks: weights, float32 `[..., block]`.
        bits: bits of a code, 4 or 8.
        symmetric: fix the zero point at the midpoint of the codes; the sign of the scale then
            follows the largest weight, to use the additional code on the negative side.
        importance: weights of the squared errors; the shape must broadcast to that of `blocks`.

    Returns:
        Scales and zeros, float32 `[..., 1]`; scales are never 0.
    """
    import torch

    top = 2**bits - 1
    middle = (top + 1) // 2
    low = blocks.amin(-1, keepdim=True).clamp_max(0)
    high = blocks.amax(-1, keepdim=True).clamp_min(0)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    # With 8 bits, clipping never pays.
    for shrink in SHRINK if bits < 8 else (1.0,):
        if symmetric:
            extreme = torch.where(high > -low, high, low)
            scale = -shrink * extreme / middle
        else:
            scale = shrink * (high - low) / top
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (
            torch.full_like(scale, middle)
            if symmetric
            else (-shrink * low / scale).round_().clamp_(0, top)
        )
        codes = (blocks / scale + zero).round_().clamp_(0, top)
        error = ((codes - zero) * scale - blocks).square_().mul_(importance).sum(-1, keepdim=True)
        if best is None:
            best = (error, scale, zero)
        else:
            better = error < best[0]
            best = (
                torch.where(better, error, best[0]),
                torch.where(better, scale, best[1]),
                torch.where(better, zero, best[2]),
            )
    assert best is not None
    return best[1], best[2]
