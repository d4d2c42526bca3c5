"""Calibrated 4-bit weights (GPTQ), layer by layer: a job for its memory, and resumable."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs.job import Job, Work
from packager.weights import blocks, gptq, states, stored
from packager.weights.blocks import Blocks
from packager.weights.layerwise import LayerwiseModel
from packager.weights.stored import BITS, HEAD, LinearError
from packager.weights.threads import Threads

if TYPE_CHECKING:
    from torch import Tensor, nn

STRIPS = 3
"""Parts in which a symmetric matrix is computed: three save a third of it, and more save little."""

SAMPLE = 256
"""Rows of a weight, evenly spaced, on which its errors are measured: they are shown to people, and
those of all rows take as long as solving for the codes."""

_TINY = 1e-30


class Calibrate(Job[None], frozen=True, kw_only=True):
    """Quantize all linear layers of a model's decoder, and its head. Progress: layers.

    Each layer is calibrated on the outputs of the quantized layers before it. The folder gets the
    files that `stored` describes; started again on the same folder, the job continues after the
    last one.

    Attributes:
        source: Hugging Face folder with safetensors.
        windows: `.npy` file of token ids, int64 `[windows, length]`.
        block_size: inputs that share a scale: 16, 32, 64 or 128.
        bfloat16: multiply in bfloat16 where the layers run, which takes less than half the time on
            processors that have it: the weights are quantized to 4 bits, and their inputs need no
            more than 8. What is solved for the codes stays in fp32.
    """

    source: Path
    windows: Path
    block_size: int
    bfloat16: bool = False

    def run(self, work: Work) -> None:
        """Quantize them; files that are there, of the same settings, are kept.

        Raises:
            ValueError: the folder has files of other settings, or the model cannot be taken apart.
            OSError: the disk is full.
        """
        import torch

        windows = torch.from_numpy(np.load(self.windows))
        settings = _settings(self.source, windows, self.block_size)
        model = LayerwiseModel(self.source, bfloat16=self.bfloat16)
        done, hidden = states.resume(work.target, model.start(windows))
        with Threads() as threads:
            for index in range(model.count):
                path = stored.file_of(work.target, index)
                if index < done:
                    stored.check(path, settings)
                    work.advance(1)
                    continue
                with model.layer(index) as layer:
                    if path.exists():
                        stored.check(path, settings)
                        for name, linear in _linears(layer).items():
                            weight = stored.load(work.target, index, name)
                            linear.weight.data = weight.dequantize()
                    else:
                        weights = _quantize_layer(
                            model, index, layer, hidden, self.block_size, threads
                        )
                        stored.save(path, weights, settings)
                    hidden = torch.cat(list(model.run(index, hidden)))
                states.keep(work.target, index + 1, hidden)
                work.advance(1)
            path = stored.file_of(work.target, None)
            if path.exists():
                stored.check(path, settings)
            else:
                moments = _head_moments(model, hidden)
                head = _Group(weights={HEAD: model.head_weight()}, hessian=moments)
                stored.save(path, _solve(-1, [head], self.block_size, threads), settings)
        states.forget(work.target)


def _head_moments(model: LayerwiseModel, hidden: Tensor) -> Tensor:
    moments = _Moments()
    for inputs in model.head_inputs(hidden):
        moments.add(inputs)
    return moments.mean()


def _settings(source: Path, windows: Tensor, block_size: int) -> dict[str, Any]:
    """Return the settings that all files of a folder have in common."""
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
    """The second moments of a linear layer's inputs, gathered in pieces."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs `[..., in]`."""
        flat = inputs.flatten(0, -2).float()
        width = flat.shape[1]
        if self._sum is None:
            self._sum = flat.new_zeros(width, width)
        # The matrix is symmetric: a strip of it begins at the diagonal.
        step = -(-width // STRIPS)
        for start in range(0, width, step):
            strip = self._sum[start : start + step, start:]
            strip.addmm_(flat[:, start : start + step].T, flat[:, start:])
        self._count += len(flat)

    def mean(self) -> Tensor:
        """Return the mean of x x^T, `[in, in]`."""
        assert self._sum is not None
        mean = self._sum.triu() / self._count
        return mean + mean.triu(1).T


class _Inputs:
    """The moments of the inputs of the linear layers below a module.

    Layers that get one and the same tensor (query, key and value, for instance) form a group.
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
        """Forget which tensors were seen: others take their place."""
        self._seen.clear()

    def remove(self) -> None:
        """Remove the hooks from the layers."""
        for hook in self._hooks:
            hook.remove()


def _quantize_layer(
    model: LayerwiseModel,
    index: int,
    layer: nn.Module,
    hidden: Tensor,
    block_size: int,
    threads: Threads,
) -> dict[str, tuple[Blocks, LinearError]]:
    """Quantize a layer's linear layers, in place."""
    linears = _linears(layer)
    inputs = _Inputs(linears)
    for _ in model.run(index, hidden):
        inputs.next_piece()
    inputs.remove()
    groups = [
        _Group(
            weights={name: linears[name].weight.data for name in names},
            hessian=inputs.moments.pop(first).mean(),
        )
        for first, names in inputs.groups.items()
    ]
    quantized = _solve(index, groups, block_size, threads)
    for name, (weight, _) in quantized.items():
        linears[name].weight.data = weight.dequantize()
    return quantized


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Weights `[out, in]` by name that get the same inputs, and the moments of these."""

    weights: dict[str, Tensor]
    hessian: Tensor


def _solve(
    layer: int, groups: list[_Group], block_size: int, threads: Threads
) -> dict[str, tuple[Blocks, LinearError]]:
    """Quantize all weights of a layer, and measure what is lost."""
    import torch

    solved = gptq.solve_all(
        [(torch.cat(list(group.weights.values())), group.hessian) for group in groups],
        bits=BITS,
        block_size=block_size,
        threads=threads,
    )
    parts: list[tuple[str, Tensor, Blocks, Tensor]] = []
    for group, joined in zip(groups, solved, strict=True):
        row = 0
        for name, weight in group.weights.items():
            parts.append((name, weight, joined.rows(slice(row, row + len(weight))), group.hessian))
            row += len(weight)
    errors = threads.map(lambda part: _error(layer, *part), parts)
    return {
        name: (weight, error) for (name, _, weight, _), error in zip(parts, errors, strict=True)
    }


def _error(
    layer: int, name: str, weight: Tensor, quantized: Blocks, hessian: Tensor
) -> LinearError:
    """Measure what quantization changes of a linear layer's outputs: a sample of them."""
    every = slice(None, None, -(-len(weight) // SAMPLE))
    rows = weight[every]
    nearest = blocks.nearest(rows, bits=BITS, block_size=quantized.block_size, symmetric=False)
    energy = max(_energy(rows, hessian), _TINY)
    lost, lost_by_nearest = (
        _energy(rows - form.dequantize(), hessian) for form in (quantized.rows(every), nearest)
    )
    return LinearError(
        layer=layer,
        name=name,
        relative=lost / energy,
        nearest=lost_by_nearest / energy,
        absolute=lost * len(weight) / len(rows),
        parameters=weight.numel(),
    )


def _energy(weight: Tensor, hessian: Tensor) -> float:
    """Return the mean of |W x|^2 over the inputs x."""
    return float((weight @ hessian).mul_(weight).sum())
