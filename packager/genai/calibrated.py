"""Calibrated weights, assembled for the nodes of the built graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packager.genai import linears
from packager.genai.linears import Origin
from packager.recipes import nodes
from packager.weights import blocks, stored
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    from torch import Tensor

MAX_RELATIVE_ERROR = 0.5
"""Squared error relative to the float weight above which a calibrated weight is not of that layer:
4 bits give about 0.01, the weight of another layer 2."""


class CalibratedWeights:
    """The output of `calibrate` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, set[str]] = {}
        for error in stored.errors(folder):
            self._known.setdefault(error.layer, set()).add(error.name)

    def linears(self, node: str) -> list[str]:
        """Return `LAYER.NAME` of the linear layers that make up a node's weight."""
        origin = self._origin(node)
        return [f"{origin.layer}.{name}" for name in origin.names] if origin else []

    def _origin(self, node: str) -> Origin | None:
        place = linears.layer_and_name(node)
        return linears.origin(node, self._known.get(place[0], ())) if place else None

    def find(self, node: str, weight: Tensor) -> Blocks | None:
        """Return the calibrated form of a node's float weight `[out, in]`; None if there is none.

        Raises:
            ValueError: the calibrated weight does not match the float weight.
        """
        origin = self._origin(node)
        if node == nodes.HEAD:
            parts = [stored.load(self._folder, None, "lm_head")]
        elif origin is not None:
            parts = [stored.load(self._folder, origin.layer, name) for name in origin.names]
        else:
            return None
        quantized = blocks.joined(parts)
        if origin is not None and origin.half is not None:
            half = len(quantized.codes) // 2
            quantized = quantized.rows(slice(origin.half * half, (origin.half + 1) * half))
        same_shape = quantized.codes.shape == weight.shape
        if not same_shape or _relative_error(quantized, weight) > MAX_RELATIVE_ERROR:
            raise ValueError(f"the calibrated weight for {node} does not match this layer")
        return quantized


def _relative_error(quantized: Blocks, weight: Tensor) -> float:
    error = (quantized.dequantize() - weight).square().sum()
    return float(error / weight.square().sum().clamp_min(1e-30))
