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

BAND = 4096
"""Inputs of a linear layer whose correlations are taken into account, at least; those of more only
up to half the number of tokens, since others are mostly chance. With as many tokens as inputs, two
bands instead of one make the error of a down projection of SmolLM2 3 % larger, and nothing takes
longer than a Hessian of Phi-3.5-mini's 8,192 inputs."""

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
        bfloat16: multiply in bfloat16 where the layers run, and what is lost, which takes less than
            half the time on processors that have it: the weights are quantized to 4 bits, and their
            inputs need no more than 8.
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
                        weights = self._quantize_layer(model, index, layer, hidden, threads)
                        stored.save(path, weights, settings)
                    hidden = torch.cat(list(model.run(index, hidden)))
                states.keep(work.target, index + 1, hidden)
                work.advance(1)
            path = stored.file_of(work.target, None)
            if path.exists():
                stored.check(path, settings)
            else:
                moments = _Moments(band(hidden[..., 0].numel()))
                for inputs in model.head_inputs(hidden):
                    moments.add(inputs)
                head = _Group(weights={HEAD: model.head_weight()}, hessians=moments.mean())
                stored.save(path, self._solve(-1, [head], threads), settings)
        states.forget(work.target)

    def _quantize_layer(
        self, model: LayerwiseModel, index: int, layer: nn.Module, hidden: Tensor, threads: Threads
    ) -> dict[str, tuple[Blocks, LinearError]]:
        """Quantize a layer's linear layers, in place."""
        linears = _linears(layer)
        inputs = _Inputs(linears, band(hidden[..., 0].numel()))
        for _ in model.run(index, hidden):
            inputs.next_piece()
        inputs.remove()
        groups = [
            _Group(
                weights={name: linears[name].weight.data for name in names},
                hessians=inputs.moments.pop(first).mean(),
            )
            for first, names in inputs.groups.items()
        ]
        quantized = self._solve(index, groups, threads)
        for name, (weight, _) in quantized.items():
            linears[name].weight.data = weight.dequantize()
        return quantized

    def _solve(
        self, layer: int, groups: list[_Group], threads: Threads
    ) -> dict[str, tuple[Blocks, LinearError]]:
        """Quantize all weights of a layer, and measure what is lost."""
        solved = iter(
            gptq.solve_all(
                [problem for group in groups for problem in group.problems()],
                bits=BITS,
                block_size=self.block_size,
                threads=threads,
                bfloat16=self.bfloat16,
            )
        )
        parts: list[tuple[str, Tensor, Blocks, list[Tensor]]] = []
        for group in groups:
            joined = blocks.beside([next(solved) for _ in group.hessians])
            row = 0
            for name, weight in group.weights.items():
                quantized = joined.rows(slice(row, row + len(weight)))
                parts.append((name, weight, quantized, group.hessians))
                row += len(weight)
        errors = threads.map(lambda part: _error(layer, *part), parts)
        return {
            name: (weight, error) for (name, _, weight, _), error in zip(parts, errors, strict=True)
        }


def band(tokens: int) -> int:
    """Return the number of inputs whose correlations are taken into account."""
    return max(BAND, tokens // 2)


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
    """The second moments of a linear layer's inputs, by band, gathered in pieces."""

    def __init__(self, band: int) -> None:
        self._band = band
        self._sums: list[Tensor] = []
        self._count = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs `[..., in]`."""
        import torch

        flat = inputs.flatten(0, -2).float()
        bands = torch.split(flat, self._band, 1)
        self._sums = self._sums or [part.new_zeros(part.shape[1], part.shape[1]) for part in bands]
        for part, products in zip(bands, self._sums, strict=True):
            # The matrix is symmetric: a strip of it begins at the diagonal.
            step = -(-len(products) // STRIPS)
            for start in range(0, len(products), step):
                strip = products[start : start + step, start:]
                strip.addmm_(part[:, start : start + step].T, part[:, start:])
        self._count += len(flat)

    def mean(self) -> list[Tensor]:
        """Return the mean of x x^T for each band, `[inputs, inputs]`."""
        means = (products.triu() / self._count for products in self._sums)
        return [mean + mean.triu(1).T for mean in means]


class _Inputs:
    """The moments of the inputs of the linear layers below a module.

    Layers that get one and the same tensor (query, key and value, for instance) form a group.
    """

    def __init__(self, linears: dict[str, nn.Linear], band: int) -> None:
        self._band = band
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
        self.moments.setdefault(name, _Moments(self._band)).add(inputs)

    def next_piece(self) -> None:
        """Forget which tensors were seen: others take their place."""
        self._seen.clear()

    def remove(self) -> None:
        """Remove the hooks from the layers."""
        for hook in self._hooks:
            hook.remove()


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Weights `[out, in]` by name that get the same inputs, and the moments of these by band."""

    weights: dict[str, Tensor]
    hessians: list[Tensor]

    def problems(self) -> list[tuple[Tensor, Tensor]]:
        """Return all weights together with the moments, for each band of their inputs."""
        import torch

        together = torch.cat(list(self.weights.values()))
        return list(zip(_bands(together, self.hessians), self.hessians, strict=True))


def _error(
    layer: int, name: str, weight: Tensor, quantized: Blocks, hessians: list[Tensor]
) -> LinearError:
    """Measure what quantization changes of a linear layer's outputs: a sample of them."""
    every = slice(None, None, -(-len(weight) // SAMPLE))
    rows = weight[every]
    nearest = blocks.nearest(rows, bits=BITS, block_size=quantized.block_size, symmetric=False)
    energy = max(_energy(rows, hessians), _TINY)
    lost, lost_by_nearest = (
        _energy(rows - form.dequantize(), hessians) for form in (quantized.rows(every), nearest)
    )
    return LinearError(
        layer=layer,
        name=name,
        relative=lost / energy,
        nearest=lost_by_nearest / energy,
        absolute=lost * len(weight) / len(rows),
        parameters=weight.numel(),
    )


def _energy(weight: Tensor, hessians: list[Tensor]) -> float:
    """Return the mean of |W x|^2 over the inputs x."""
    parts = zip(_bands(weight, hessians), hessians, strict=True)
    return sum(float((part @ hessian).mul_(part).sum()) for part, hessian in parts)


def _bands(weight: Tensor, hessians: list[Tensor]) -> tuple[Tensor, ...]:
    import torch

    return torch.split(weight, [len(hessian) for hessian in hessians], 1)
