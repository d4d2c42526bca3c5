"""Calibrated 4-bit weights (GPTQ), layer by layer. Runs as a child process:

    python -m packager.jobs.calibrate SOURCE WINDOWS FOLDER BLOCK_SIZE

SOURCE is a Hugging Face folder, WINDOWS an .npy file of token ids, int64 `[windows, length]`.
FOLDER gets `layer-000.safetensors` and so on, and `head.safetensors`. Started again on the same
folder, it goes on after the last layer that is there. `Layer 3/30` tells of each layer done.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.weights import blocks, gptq, stored
from packager.weights.blocks import Blocks
from packager.weights.layerwise import LayerwiseModel
from packager.weights.stored import BITS, HEAD, LinearError

if TYPE_CHECKING:
    from torch import Tensor, nn

_TINY = 1e-30


def quantize(
    source: Path, windows: Tensor, folder: Path, *, block_size: int, symmetric: bool = False
) -> None:
    """Quantize all linear layers of a model's decoder, and its head.

    Each layer is calibrated on what the quantized layers before it give.

    Args:
        source: Hugging Face folder with safetensors.
        windows: token ids, int64 `[windows, length]`.
        folder: gets the files; those already there, of the same settings, are not made again.
        block_size: inputs that share a scale: 16, 32, 64 or 128.
        symmetric: fix the zero points in the middle of the codes.

    Raises:
        ValueError: the folder has files of other settings, or the model cannot be taken apart.
        ResourceError: the disk is full.
    """
    import torch

    settings = _settings(source, windows, block_size, symmetric)
    model = LayerwiseModel(source)
    hidden = model.start(windows)
    for index in range(model.count):
        path = stored.file_of(folder, index)
        with model.layer(index) as layer:
            if path.exists():
                stored.check(path, settings)
                for name, linear in _linears(layer).items():
                    linear.weight.data = stored.load(folder, index, name).dequantize()
            else:
                made = _quantize_layer(model, index, layer, hidden, block_size, symmetric)
                stored.save(path, made, settings)
            hidden = torch.cat(list(model.run(index, hidden)))
        sys.stdout.write(f"Layer {index + 1}/{model.count}\n")
    path = stored.file_of(folder, None)
    if path.exists():
        stored.check(path, settings)
        return
    hessian = _Moments()
    for inputs in model.head_inputs(hidden):
        hessian.add(inputs)
    made = _solve(-1, {HEAD: model.head_weight()}, hessian.mean(), block_size, symmetric)
    stored.save(path, made, settings)


def _settings(source: Path, windows: Tensor, block_size: int, symmetric: bool) -> dict[str, Any]:
    """What the files of a folder have in common."""
    return {
        "bits": BITS,
        "block_size": block_size,
        "symmetric": symmetric,
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
    symmetric: bool,
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
        made |= _solve(index, weights, inputs.moments.pop(first).mean(), block_size, symmetric)
    for name, (found, _) in made.items():
        linears[name].weight.data = found.dequantize()
    return made


def _solve(
    layer: int,
    weights: dict[str, Tensor],
    hessian: Tensor,
    block_size: int,
    symmetric: bool,
) -> dict[str, tuple[Blocks, LinearError]]:
    """Quantize weights `[out, in]` that get the same inputs, and measure what is lost."""
    import torch

    found = gptq.solve(
        torch.cat(list(weights.values())),
        hessian,
        bits=BITS,
        block_size=block_size,
        symmetric=symmetric,
    )
    made, row = {}, 0
    for name, weight in weights.items():
        rows = slice(row, row + len(weight))
        row += len(weight)
        part = replace(
            found, codes=found.codes[rows], scales=found.scales[rows], zeros=found.zeros[rows]
        )
        plain = blocks.nearest(weight, bits=BITS, block_size=block_size, symmetric=symmetric)
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


if __name__ == "__main__":
    import numpy as np
    import torch

    quantize(
        Path(sys.argv[1]),
        torch.from_numpy(np.load(sys.argv[2])),
        Path(sys.argv[3]),
        block_size=int(sys.argv[4]),
    )
