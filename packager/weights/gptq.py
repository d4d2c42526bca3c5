"""Calibrated codes of one weight: those that keep a linear layer's outputs, not its weights.

The first codes are GPTQ's (Frantar et al., "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", 2022): columns are rounded one after the other, and what each
loses is made up for by those that follow. Then each code and each scale is set, in turn, to what is
best while all others stay (coordinate descent, as in Behdin et al., "QuantEase", 2023). Both
minimize the squared error of the outputs, of which the Hessian is the inputs' second moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from packager.weights.blocks import Blocks, encode, grid

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.05
"""Added to the Hessian's diagonal, as a part of its mean. On held-out text that the model wrote,
0.01 and 0.15 were both measured to be worse; on other text the differences were within the
noise."""
SWEEPS = 2
"""Rounds of coordinate descent. It never makes the error larger; the first rounds do the most."""
LAZY = 128
"""Columns after which the rest of the weight is updated; a multiple of all block sizes."""
ROWS = 4096
"""Rows worked on together. They do not depend on each other; this bounds the memory."""


def solve(weight: Tensor, hessian: Tensor, *, bits: int, block_size: int) -> Blocks:
    """Quantize a weight for inputs of known second moments.

    Args:
        weight: float32 `[out, in]`.
        hessian: float32 `[in, in]`, mean of x x^T over the inputs x.
        bits: 4 or 8.
        block_size: inputs that share a scale; divides `LAZY`.
    """
    import torch

    damped = hessian.clone()
    damped.diagonal().add_(DAMPING * hessian.diagonal().mean().clamp_min(1e-12))
    factor = _inverse_factor(damped)
    parts = []
    for rows in torch.split(weight, ROWS):
        # Transposed, so that a column is contiguous.
        columns = rows.T.contiguous()
        codes, scales, zeros = _in_order(columns, factor, bits, block_size)
        for _ in range(SWEEPS):
            _sweep(columns, damped, codes, scales, zeros, bits, block_size)
        parts.append((codes.to(torch.uint8).T, scales.T, zeros.to(torch.uint8).T))
    codes, scales, zeros = (torch.cat(each).contiguous() for each in zip(*parts, strict=True))
    return Blocks(codes=codes, scales=scales, zeros=zeros, bits=bits, block_size=block_size)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U = hessian^-1."""
    import torch

    # The Cholesky factor of the matrix read backwards, read backwards, is upper triangular, and its
    # inverse is the factor wanted: no need to invert the Hessian itself.
    upper = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    inverse: Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(hessian)), upper=True)
    return inverse


def _in_order(
    columns: Tensor, factor: Tensor, bits: int, block_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Round the columns `[in, rows]` one after the other.

    The grid of a block is searched when the block is reached, for the weights as they are by then;
    what a column's rounding costs, after all that the later ones can make up for, weights it.

    Returns:
        codes `[in, rows]`, scales and zeros `[blocks, rows]`, all float32.
    """
    import torch

    width = len(columns)
    left = columns.clone()
    codes = torch.empty_like(columns)
    scales, zeros = [], []
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        part = left[start:stop]
        local = factor[start:stop, start:stop]
        errors = torch.empty_like(part)
        for at in range(stop - start):
            if at % block_size == 0:
                block = slice(at, at + block_size)
                found = grid(
                    part[block].T.contiguous(),
                    bits=bits,
                    symmetric=False,
                    importance=local.diagonal()[block].square().reciprocal(),
                )
                scale, zero = (each[:, 0] for each in found)
                scales.append(scale)
                zeros.append(zero)
            code = codes[start + at]
            code.copy_(encode(part[at], scale, zero, bits=bits))
            errors[at] = (part[at] - (code - zero) * scale) / local[at, at]
            part[at + 1 :].addr_(local[at, at + 1 :], errors[at], alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return codes, torch.stack(scales), torch.stack(zeros)


def _sweep(
    columns: Tensor,
    hessian: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    bits: int,
    block_size: int,
) -> None:
    """Set each block's scale, then each of its codes, to the best while all others stay."""
    width = len(columns)
    levels = codes - zeros.repeat_interleave(block_size, 0)[:width]
    error = columns - levels * scales.repeat_interleave(block_size, 0)[:width]
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        local = hessian[start:stop, start:stop]
        # Minus half the gradient of the squared error with respect to these columns.
        slope = hessian[start:stop] @ error
        for first in range(start, stop, block_size):
            scale, zero = scales[first // block_size], zeros[first // block_size]
            block = slice(first, min(first + block_size, stop))
            near = slice(block.start - start, block.stop - start)
            level = codes[block] - zero
            gain = (level * slope[near]).sum(0)
            cost = (level * (local[near, near] @ level)).sum(0).clamp_min(1e-30)
            # No further than half the scale: a grid turned around or near 0 has no way back.
            step = (gain / cost).clamp(-0.5 * scale.abs(), 0.5 * scale.abs())
            scale += step
            error[block] -= level * step
            slope -= local[:, near] @ (level * step)
            for at in range(block.start, block.stop):
                here = at - start
                best = (codes[at] - zero) * scale + slope[here] / hessian[at, at]
                code = encode(best, scale, zero, bits=bits)
                change = (code - codes[at]) * scale
                codes[at] = code
                error[at] -= change
                slope.addr_(local[here], change, alpha=-1)
