"""Calibrated 4-bit weights (GPTQ), layer by layer: a job for its memory, and resumable."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs.job import Job, Work
from packager.weights import blocks, gptq, stored
from packager.weights.blocks import Blocks
from packager.weights.layerwise import LayerwiseModel
from packager.weights.stored import BITS, HEAD, LinearError

if TYPE_CHECKING:
    from torch import Tensor, nn

_TINY = 1e-30


class Calibrate(Job[None], frozen=True, kw_only=True):
    """Quantize all linear layers of a model's decoder, and its head. Progress: layers.

    Each layer is calibrated on what the quantized layers before it give. The folder gets the files
    that `stored` describes; started again on the same folder, it goes on after the last one.

    Attributes:
        source: Hugging Face folder with safetensors.
        windows: `.npy` file of token ids, int64 `[windows, length]`.
        block_size: inputs that share a scale: 16, 32, 64 or 128.
    """

    source: Path
    windows: Path
    block_size: int

    def run(self, work: Work) -> None:
        """Quantize them; files that are there, of the same settings, are not made again.

        Raises:
            ValueError: the folder has files of other settings, or the model cannot be taken apart.
            OSError: the disk is full.
        """
        import torch

        windows = torch.from_numpy(np.load(self.windows))
        settings = _settings(self.source, windows, self.block_size)
        model = LayerwiseModel(self.source)
        hidden = model.start(windows)
        for index in range(model.count):
            path = stored.file_of(work.target, index)
            with model.layer(index) as layer:
                if path.exists():
                    stored.check(path, settings)
                    for name, linear in _linears(layer).items():
                        weight = stored.load(work.target, index, name)
                        linear.weight.data = weight.dequantize()
                else:
                    weights = _quantize_layer(model, index, layer, hidden, self.block_size)
                    stored.save(path, weights, settings)
                hidden = torch.cat(list(model.run(index, hidden)))
            work.advance(1)
        path = stored.file_of(work.target, None)
        if path.exists():
            stored.check(path, settings)
            return
        hessian = _Moments()
        for inputs in model.head_inputs(hidden):
            hessian.add(inputs)
        weights = _solve(-1, {HEAD: model.head_weight()}, hessian.mean(), self.block_size)
        stored.save(path, weights, settings)


def _settings(source: Path, windows: Tensor, block_size: int) -> dict[str, Any]:
    """The settings that all files of a folder have in common."""
    return {
        "bits": BITS,
        "block_size": block_size,
        "model": hashlib.sha256((source / "config.json").read_bytes()).hexdigest(),
        "windows": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
    }


def _linears(layer: nn.Module) -> dict[str, nn.Linear]:
    from torch import nn

    return {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}


class _Moments:
    """Second moments of a linear layer's inputs, gathered in pieces."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, inputs: Tensor) -> None:
        """Take in inputs `[..., in]`."""
        flat = inputs.flatten(0, -2)
        product = flat.T @ flat
        self._sum = product if self._sum is None else self._sum.add_(product)
        self._count += len(flat)

    def mean(self) -> Tensor:
        """Mean of x x^T, `[in, in]`."""
        assert self._sum is not None
        return self._sum / self._count


class _Inputs:
    """Gathers the moments of what the linear layers below a module get.

    Layers that get one and the same tensor (query, key and value, say) form a group.
    """

    def __init__(self, linears: dict[str, nn.Linear]) -> None:
        self.moments: dict[str, _Moments] = {}
        self.groups: dict[str, list[str]] = {}
        self._seen: dict[str, Tensor] = {}
        self._hooks = [
            linear.register_forward_pre_hook(
                lambda _, arguments, name=name: self._take(name, arguments[0])
            )
            for name, linear in linears.items()
        ]

    def _take(self, name: str, inputs: Tensor) -> None:
        for first, seen in self._seen.items():
            if seen is inputs:
                if name not in self.groups[first]:
                    self.groups[first].append(name)
                return
        self._seen[name] = inputs
        self.groups.setdefault(name, [name])
        self.moments.setdefault(name, _Moments()).add(inputs)

    def next_piece(self) -> None:
        """Forget which tensors were seen: others will take their place."""
        self._seen.clear()

    def remove(self) -> None:
        """Leave the layers alone."""
        for hook in self._hooks:
            hook.remove()


def _quantize_layer(
    model: LayerwiseModel,
    index: int,
    layer: nn.Module,
    hidden: Tensor,
    block_size: int,
) -> dict[str, tuple[Blocks, LinearError]]:
    """Quantize a layer's linear layers, in place."""
    linears = _linears(layer)
    inputs = _Inputs(linears)
    for _ in model.run(index, hidden):
        inputs.next_piece()
    inputs.remove()
    made: dict[str, tuple[Blocks, LinearError]] = {}
    for first, names in inputs.groups.items():
        weights = {name: linears[name].weight.data for name in names}
        made |= _solve(index, weights, inputs.moments.pop(first).mean(), block_size)
    for name, (found, _) in made.items():
        linears[name].weight.data = found.dequantize()
    return made


def _solve(
    layer: int,
    weights: dict[str, Tensor],
    hessian: Tensor,
    block_size: int,
) -> dict[str, tuple[Blocks, LinearError]]:
    """Quantize weights `[out, in]` that get the same inputs, and measure what is lost."""
    import torch

    found = gptq.solve(
        torch.cat(list(weights.values())),
        hessian,
        bits=BITS,
        block_size=block_size,
    )
    made, row = {}, 0
    for name, weight in weights.items():
        rows = slice(row, row + len(weight))
        row += len(weight)
        part = replace(
            found, codes=found.codes[rows], scales=found.scales[rows], zeros=found.zeros[rows]
        )
        plain = blocks.nearest(weight, bits=BITS, block_size=block_size, symmetric=False)
        energy = _energy(weight, hessian)
        lost, lost_by_nearest = (
            _energy(weight - each.dequantize(), hessian) for each in (part, plain)
        )
        error = LinearError(
            layer=layer,
            name=name,
            relative=lost / max(energy, _TINY),
            nearest=lost_by_nearest / max(energy, _TINY),
            absolute=lost,
            parameters=weight.numel(),
        )
        made[name] = (part, error)
    return made


def _energy(weight: Tensor, hessian: Tensor) -> float:
    """Mean of |W x|^2 over the inputs x."""
    import torch

    pieces = torch.split(weight, gptq.ROWS)
    return sum(float((rows @ hessian).mul_(rows).sum()) for rows in pieces)
