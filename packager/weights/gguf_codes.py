"""The codes of a GGUF tensor as `Blocks`: the file's own quantization, kept.

A weight of these types is `scale * (code - zero)` with a fixed zero point, or `scale * code + low`
with a real number `low` for each block. The latter becomes an integer zero point, and what is left
of `low` an offset. Layouts: the structs of ggml-common.h, with codes in the order of ggml-quants.c.
Types of 5 and 6 bits get 8, as no kernel has their width: rounding their weights to 8 bits in
blocks of 32 adds an error of 0.00003 of their energy, at fewer bytes than their codes would take
with zero points or in blocks of 16. The IQ types cannot be kept: their codes index a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from packager.weights import blocks
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK_SIZE = 32
"""Weights that share a scale where the codes are not the file's."""


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """Codes of a tensor of `blocks` blocks a row.

    Attributes:
        codes: integers from 0, `[out, in]`.
        scale: `[out, blocks]`, float32.
        low: weight of code 0, `[out, blocks]`, float32; None with a fixed zero point.
        zero: the fixed zero point.
    """

    codes: Array
    scale: Array
    low: Array | None = None
    zero: int = 0


@dataclass(frozen=True, kw_only=True)
class _Type:
    """A tensor type.

    Attributes:
        layout: fields of a block as numpy describes them.
        decode: function from blocks `[out, blocks]` of the layout to the codes.
        bits: bits of the codes as they are stored.
        block_size: weights that share a scale.
        offsets: the blocks have a `low` of their own.
    """

    layout: list[tuple[Any, ...]]
    decode: Callable[[Array], _Decoded]
    bits: int
    block_size: int = 32
    offsets: bool = False


def decode(data: Array, name: str) -> Blocks:
    """Return the codes of a tensor.

    Args:
        data: the file's bytes, uint8 `[out, bytes of a row]`.
        name: name of the type, one of `DECODED`.

    Raises:
        ValueError: a scale is not finite.
    """
    import numpy as np
    import torch

    kind = _TYPES[name]
    with np.errstate(invalid="ignore", over="ignore"):
        decoded = kind.decode(data.view(np.dtype(kind.layout)))
    numbers = (decoded.scale, decoded.low) if decoded.low is not None else (decoded.scale,)
    if not all(np.isfinite(array).all() for array in numbers):
        raise ValueError("some scales are not finite")
    middle = 1 << (kind.bits - 1)
    codes, scale = torch.from_numpy(decoded.codes), torch.from_numpy(decoded.scale)
    weight = Blocks(
        codes=codes if decoded.low is not None else codes + (middle - decoded.zero),
        scales=scale,
        zeros=torch.full(scale.shape, middle, dtype=torch.uint8),
        bits=kind.bits,
        block_size=kind.block_size,
    )
    return weight if decoded.low is None else _with_offsets(weight, torch.from_numpy(decoded.low))


def _with_offsets(weight: Blocks, low: Any) -> Blocks:
    """Express `low`, the weight of code 0 in each block, as zero points and offsets."""
    import torch

    zeros = torch.where(weight.scales == 0, 0, -low / weight.scales).round_()
    zeros = zeros.clamp_(0, 2**weight.bits - 1)
    left = low + zeros * weight.scales
    offsets = blocks.nearest(left, bits=weight.bits, block_size=weight.block_size, symmetric=False)
    return replace(weight, zeros=zeros.to(torch.uint8), offsets=offsets if left.any() else None)


def _floats(halves: Array) -> Array:
    import numpy as np

    return halves.astype(np.float32)


def _nibbles(packed: Array) -> Array:
    """Unpack `[..., n]` bytes to `[..., 2n]` codes: the low halves, then the high ones."""
    import numpy as np

    return np.concatenate([packed & 15, packed >> 4], -1)


def _rows(codes: Array, out: int) -> Array:
    import numpy as np

    return np.ascontiguousarray(codes).reshape(out, -1)


def _q4_0(block: Array) -> _Decoded:
    codes = _rows(_nibbles(block["codes"]), len(block))
    return _Decoded(codes=codes, scale=_floats(block["d"]), zero=8)


def _q4_1(block: Array) -> _Decoded:
    codes = _rows(_nibbles(block["codes"]), len(block))
    return _Decoded(codes=codes, scale=_floats(block["d"]), low=_floats(block["m"]))


def _q8_0(block: Array) -> _Decoded:
    return _Decoded(
        codes=_rows(block["codes"] ^ 128, len(block)), scale=_floats(block["d"]), zero=128
    )


def _q2_k(block: Array) -> _Decoded:
    codes = _rows(_pairs(block["codes"]), len(block))
    scale = _floats(block["d"])[..., None] * (block["scales"] & 15)
    low = -_floats(block["dmin"])[..., None] * (block["scales"] >> 4)
    return _Decoded(codes=codes, scale=_rows(scale, len(block)), low=_rows(low, len(block)))


def _q3_k(block: Array) -> _Decoded:
    import numpy as np

    # Bit n of the mask's byte i is the third bit of code 32 n + i.
    third = np.moveaxis(np.unpackbits(block["mask"][..., None], axis=-1, bitorder="little"), -1, -2)
    codes = _pairs(block["codes"]) | _rows(third, len(block)).reshape(*block.shape, -1) << 2
    # Scales have 6 bits: the low 4 of all in 8 bytes, then the high 2 in 4.
    low = _nibbles(block["scales"][..., :8])
    high = np.concatenate([block["scales"][..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], -1)
    scale = _floats(block["d"])[..., None] * ((low | high << 4).astype(np.float32) - 32)
    return _Decoded(codes=_rows(codes, len(block)), scale=_rows(scale, len(block)), zero=4)


def _q4_k(block: Array) -> _Decoded:
    import numpy as np

    codes = _nibbles(block["codes"].reshape(*block.shape, 4, 32))
    # 8 scales and 8 minima of 6 bits: the first 4 of each in a byte, and in its high 2 bits those
    # of the last 4, whose low 4 bits are in a third group.
    first, second, third = np.split(block["scales"], 3, -1)
    scale = np.concatenate([first & 63, third & 15 | first >> 6 << 4], -1)
    low = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], -1)
    return _Decoded(
        codes=_rows(codes, len(block)),
        scale=_rows(_floats(block["d"])[..., None] * scale, len(block)),
        low=_rows(-_floats(block["dmin"])[..., None] * low, len(block)),
    )


def _pairs(packed: Array) -> Array:
    """Unpack `[..., 32 n]` bytes to `[..., 128 n]` codes of 2 bits, in halves of 128 codes."""
    import numpy as np

    parts = packed.reshape(*packed.shape[:-1], -1, 32)
    codes = np.stack([parts >> shift & 3 for shift in (0, 2, 4, 6)], -2)
    return codes.reshape(*packed.shape[:-1], -1)


_TYPES = {
    "Q4_0": _Type(layout=[("d", "<f2"), ("codes", "u1", 16)], decode=_q4_0, bits=4),
    "Q4_1": _Type(
        layout=[("d", "<f2"), ("m", "<f2"), ("codes", "u1", 16)],
        decode=_q4_1,
        bits=4,
        offsets=True,
    ),
    "Q8_0": _Type(layout=[("d", "<f2"), ("codes", "u1", 32)], decode=_q8_0, bits=8),
    "Q2_K": _Type(
        layout=[("scales", "u1", 16), ("codes", "u1", 64), ("d", "<f2"), ("dmin", "<f2")],
        decode=_q2_k,
        bits=4,
        block_size=16,
        offsets=True,
    ),
    "Q3_K": _Type(
        layout=[("mask", "u1", 32), ("codes", "u1", 64), ("scales", "u1", 12), ("d", "<f2")],
        decode=_q3_k,
        bits=4,
        block_size=16,
    ),
    "Q4_K": _Type(
        layout=[("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("codes", "u1", 128)],
        decode=_q4_k,
        bits=4,
        offsets=True,
    ),
}

DECODED = frozenset(_TYPES)
"""Types whose codes are kept."""

FINER = frozenset({"Q5_0", "Q5_1", "Q5_K", "Q6_K"})
"""Types that are rounded to 8 bits, a grid several times as fine as their own."""

KEPT = DECODED | FINER
"""Types whose weights stay what they are."""

FLOATS = frozenset({"F16", "BF16", "F32"})
"""Types without codes; they get 8 bits."""


def stored_bits(name: str) -> float:
    """Return the size of a weight of a type as it is stored, with all that its block has, bits."""
    kind = _TYPES.get(name)
    if kind is None:
        return 8 + 16 / BLOCK_SIZE if name in FINER | FLOATS else 4 + 20 / BLOCK_SIZE
    alone = kind.bits + 16 / kind.block_size
    if not kind.offsets:
        return alone
    # A zero point and an offset, which is a weight of a block of its own, for each block.
    return alone + (kind.bits + alone + kind.bits / kind.block_size) / kind.block_size
