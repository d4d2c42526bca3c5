"""Calibrated weights, assembled for the nodes of the built graph."""

from __future__ import annotations

import itertools
from collections.abc import Collection
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

_OUTER = {nodes.HEAD: (stored.HEAD,), nodes.EMBEDDING: (stored.EMBEDDING,)}


class CalibratedWeights:
    """The output of `calibrate` or `keep_gguf` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, set[str]] = {}
        for error in stored.errors(folder):
            self._known.setdefault(error.layer, set()).add(error.name)
        self._outer = stored.names(folder, None)

    def _origin(self, node: str) -> Origin | None:
        place = linears.layer_and_name(node)
        return linears.origin(node, self._known.get(place[0], ())) if place else None

    def find(self, node: str, weight: Tensor, finer: Collection[str] = ()) -> list[Blocks] | None:
        """Return the calibrated form of a node's float weight `[out, in]`; None if there is none.

        Args:
            node: name of the node.
            weight: its float weight.
            finer: linear layers to round to 8 bits instead, as `stored.place` names them.

        Returns:
            Parts of one form each, which follow each other along `out`.

        Raises:
            ValueError: the calibrated weight does not match the float weight.
        """
        origin = self._origin(node)
        names = origin.names if origin else self._outer.intersection(_OUTER.get(node, ()))
        if not names:
            return None
        layer = origin.layer if origin else -1
        parts, row = [], 0
        for name in names:
            part = stored.load(self._folder, origin.layer if origin else None, name)
            if origin is not None and origin.half is not None:
                count = len(part.codes) // 2
                part = part.rows(slice(origin.half * count, (origin.half + 1) * count))
            rows = weight[row : row + len(part.codes)]
            row += len(rows)
            if part.codes.shape != rows.shape or _relative_error(part, rows) > MAX_RELATIVE_ERROR:
                raise ValueError(f"the calibrated weight for {node} does not match this layer")
            if stored.place(layer, name) in finer:
                part = blocks.eight_bits(rows, block_size=part.block_size)
            parts.append(part)
        if row != len(weight):
            raise ValueError(f"the calibrated weight for {node} does not match this layer")
        alike = itertools.groupby(parts, key=Blocks.form)
        return [blocks.joined(list(group)) for _, group in alike]


def _relative_error(quantized: Blocks, weight: Tensor) -> float:
    error = (quantized.dequantize() - weight).square().sum()
    return float(error / weight.square().sum().clamp_min(1e-30))
