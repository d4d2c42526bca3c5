"""Calibrated 4-bit weights (GPTQ), layer by layer. Runs as a child process:

    python -m packager.quantize.gptq SOURCE WINDOWS FOLDER BLOCK_SIZE

SOURCE is a Hugging Face folder, WINDOWS an .npy file of token ids, int64 `[windows, length]`.
FOLDER gets `layer-000.safetensors` and so on, and `head.safetensors`. Started again on the same
folder, it goes on after the last layer that is there. `Layer 3/30` tells of each layer done.

In a file, the linear layer `mlp.down_proj` has `mlp.down_proj.codes`, `.scales` and `.zeros` as in
`blocks.Blocks`; the metadata (`about`) says with which settings they were made, and how well they
keep the layer's outputs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.aside import written_aside
from packager.weights import blocks, gptq
from packager.weights.blocks import Blocks
from packager.weights.layerwise import LayerwiseModel

if TYPE_CHECKING:
    from torch import Tensor, nn

BITS = 4
_TINY = 1e-30
HEAD = "lm_head"
_HINT = "Free some space, or set EDGEPACK_CACHE to a folder on a larger disk."


@dataclass(frozen=True, kw_only=True)
class LinearError:
    """What quantization did to the outputs of a linear layer, over the calibration text.

    Attributes:
        layer: index of the decoder layer; -1 for the head.
        name: of the linear layer below it, `mlp.down_proj`.
        relative: squared error of the outputs over their squares, with the calibrated weights.
        nearest: the same with weights rounded to the nearest.
        absolute: squared error of the outputs, mean over the tokens, with the calibrated weights.
        parameters: number of weights.
    """

    layer: int
    name: str
    relative: float
    nearest: float
    absolute: float
    parameters: int


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
        path = _path(folder, index)
        with model.layer(index) as layer:
            if path.exists():
                _check(path, settings)
                for name, linear in _linears(layer).items():
                    linear.weight.data = load(folder, index, name).dequantize()
            else:
                made = _quantize_layer(model, index, layer, hidden, block_size, symmetric)
                _save(path, made, settings)
            hidden = torch.cat(list(model.run(index, hidden)))
        sys.stdout.write(f"Layer {index + 1}/{model.count}\n")
    path = _path(folder, None)
    if path.exists():
        _check(path, settings)
        return
    hessian = _Moments()
    for inputs in model.head_inputs(hidden):
        hessian.add(inputs)
    made = _solve(-1, {HEAD: model.head_weight()}, hessian.mean(), block_size, symmetric)
    _save(path, made, settings)


def load(folder: Path, layer: int | None, name: str) -> Blocks:
    """The quantized weight of a linear layer below a decoder layer; of the head if that is None.

    Raises:
        FileNotFoundError: the layer was not quantized.
        ValueError: it has no such linear layer.
    """
    from safetensors import safe_open

    with safe_open(_path(folder, layer), framework="pt") as file:
        if f"{name}.codes" not in file.keys():  # noqa: SIM118 - no mapping
            raise ValueError(f"{_path(folder, layer)} has no {name}")
        settings = _about(file)["settings"]
        return Blocks(
            **{part: file.get_tensor(f"{name}.{part}") for part in ("codes", "scales", "zeros")},
            bits=settings["bits"],
            block_size=settings["block_size"],
        )


def errors(folder: Path) -> list[LinearError]:
    """The errors of all linear layers of the decoder, by layer; not the head's."""
    from safetensors import safe_open

    found = []
    for path in sorted(folder.glob("layer-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found += [LinearError(**each) for each in _about(file)["errors"]]
    return found


def _path(folder: Path, layer: int | None) -> Path:
    return folder / ("head.safetensors" if layer is None else f"layer-{layer:03}.safetensors")


def _settings(source: Path, windows: Tensor, block_size: int, symmetric: bool) -> dict[str, Any]:
    """What the files of a folder have in common."""
    return {
        "bits": BITS,
        "block_size": block_size,
        "symmetric": symmetric,
        "model": hashlib.sha256((source / "config.json").read_bytes()).hexdigest(),
        "windows": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
    }


def _about(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.metadata()["about"])
    return found


def _check(path: Path, settings: dict[str, Any]) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = _about(file)["settings"]
    if found != settings:
        raise ValueError(f"{path} was made with other settings: remove the folder")


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


def _save(
    path: Path, made: dict[str, tuple[Blocks, LinearError]], settings: dict[str, Any]
) -> None:
    from safetensors.torch import save

    tensors = {
        f"{name}.{part}": getattr(found, part).contiguous()
        for name, (found, _) in made.items()
        for part in ("codes", "scales", "zeros")
    }
    # One entry: of several, the library writes another order each time.
    about = {"settings": settings, "errors": [asdict(error) for _, error in made.values()]}
    with written_aside(path, _HINT) as file:
        file.write(save(tensors, metadata={"about": json.dumps(about)}))


if __name__ == "__main__":
    import numpy as np
    import torch

    quantize(
        Path(sys.argv[1]),
        torch.from_numpy(np.load(sys.argv[2])),
        Path(sys.argv[3]),
        block_size=int(sys.argv[4]),
    )
