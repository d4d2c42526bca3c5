"""Calibrated weights, as the nodes of the built graph want them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packager.genai import linears
from packager.recipes import nodes
from packager.weights import stored
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    from torch import Tensor

MAX_RELATIVE_ERROR = 0.5
"""Squared error of a calibrated weight, relative to the float one, above which the two cannot
belong together: 4 bits leave about 0.01 of it, another layer's weight 2."""


class CalibratedWeights:
    """What `calibrate` left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = {error.name for error in stored.errors(folder)}

    def linears(self, node: str) -> list[str]:
        """`LAYER.NAME` of the linear layers that a node's weight is made of."""
        origin = linears.origin(node, self._known)
        return [f"{origin.layer}.{name}" for name in origin.names] if origin else []

    def find(self, node: str, weight: Tensor) -> Blocks | None:
        """The calibrated form of a node's float weight `[out, in]`; None if there is none.

        Raises:
            ValueError: what was found is not this weight's.
        """
        import torch

        origin = linears.origin(node, self._known)
        if node == nodes.HEAD:
            parts = [stored.load(self._folder, None, "lm_head")]
        elif origin is not None:
            parts = [stored.load(self._folder, origin.layer, name) for name in origin.names]
        else:
            return None
        codes, scales, zeros = (
            torch.cat([getattr(part, field) for part in parts])
            for field in ("codes", "scales", "zeros")
        )
        if origin is not None and origin.half is not None:
            codes, scales, zeros = (each.chunk(2)[origin.half] for each in (codes, scales, zeros))
        found = Blocks(
            codes=codes,
            scales=scales,
            zeros=zeros,
            bits=parts[0].bits,
            block_size=parts[0].block_size,
        )
        same = found.codes.shape == weight.shape
        if not same or _relative_error(found, weight) > MAX_RELATIVE_ERROR:
            raise ValueError(f"the calibrated weight for {node} is another one's")
        return found


def _relative_error(found: Blocks, weight: Tensor) -> float:
    error = (found.dequantize() - weight).square().sum() / weight.square().sum().clamp_min(1e-30)
    return float(error)
