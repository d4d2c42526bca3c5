"""GPTQ of one weight: codes that keep a linear layer's outputs, not its weights.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2022). Columns are rounded one after the other; the error of each is made up for by those that
follow, weighted with the inverse of the inputs' second moments (the Hessian of the squared output
error). The grid of a block of columns is searched when the block is reached, on the weights as they
are by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from packager.quantize.blocks import Blocks, encode, grid

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a part of its mean."""
LAZY = 128
"""Columns after which the rest of the weight is updated; a multiple of all block sizes."""
ROWS = 8192
"""Rows worked on together. They do not depend on each other; this bounds the memory."""


def solve(
    weight: Tensor, hessian: Tensor, *, bits: int, block_size: int, symmetric: bool
) -> Blocks:
    """Quantize a weight for inputs of known second moments.

    Args:
        weight: float32 `[out, in]`.
        hessian: float32 `[in, in]`, sum or mean of x x^T over the inputs x.
        bits: 4 or 8.
        block_size: inputs that share a scale; divides `LAZY`.
        symmetric: fix the zero points in the middle of the codes.
    """
    import torch

    factor = _inverse_factor(hessian)
    parts = [
        _solve(rows, factor, bits, block_size, symmetric) for rows in torch.split(weight, ROWS)
    ]
    codes, scales, zeros = (torch.cat(each) for each in zip(*parts, strict=True))
    return Blocks(codes=codes, scales=scales, zeros=zeros, bits=bits, block_size=block_size)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U = (hessian + damping)^-1."""
    import torch

    damped = hessian.clone()
    damped.diagonal().add_(DAMPING * hessian.diagonal().mean().clamp_min(1e-12))
    # The Cholesky factor of the matrix read backwards, read backwards, is upper triangular, and its
    # inverse is the factor wanted: no need to invert the Hessian itself.
    upper = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    inverse: Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(hessian)), upper=True)
    return inverse


def _solve(
    weight: Tensor, factor: Tensor, bits: int, block_size: int, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes `[rows, in]`, scales and zeros `[rows, blocks]`."""
    import torch

    rows, width = weight.shape
    # Transposed, so that a column is contiguous.
    left = weight.T.contiguous()
    codes = torch.empty((width, rows), dtype=torch.uint8)
    scales, zeros = [], []
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        part = left[start:stop]
        local = factor[start:stop, start:stop]
        errors = torch.empty_like(part)
        for at in range(stop - start):
            if at % block_size == 0:
                scale, zero = grid(
                    part[at : at + block_size].T.contiguous(), bits=bits, symmetric=symmetric
                )
                scales.append(scale)
                zeros.append(zero.to(torch.uint8))
                scale, zero = scale.squeeze(-1), zero.squeeze(-1)
            column = part[at]
            code = encode(column, scale, zero, bits=bits)
            codes[start + at] = code
            errors[at] = (column - (code - zero) * scale) / local[at, at]
            part[at + 1 :].addr_(local[at, at + 1 :], errors[at], alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return codes.T.contiguous(), torch.cat(scales, 1), torch.cat(zeros, 1)
