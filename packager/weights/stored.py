"""Files of quantized weights, one for each decoder layer and one for the head.

In a file, the linear layer `mlp.down_proj` has the tensors `mlp.down_proj.codes`, `.scales` and
`.zeros` as in `blocks.Blocks`, and those of its offsets as `mlp.down_proj.offsets.codes` and so on.
The metadata (`about`) holds the settings of the quantization, the errors of the layers' outputs,
and bits and block size of each linear layer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.durable import written_aside
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    from torch import Tensor

BITS = 4
HEAD = "lm_head"
EMBEDDING = "embed_tokens"

_PARTS = ("codes", "scales", "zeros")


@dataclass(frozen=True, kw_only=True)
class LinearError:
    """Errors of a linear layer's outputs after quantization, over the calibration set.

    Attributes:
        layer: index of the decoder layer; -1 for the head.
        name: name of the linear layer below it (`mlp.down_proj`).
        relative: squared error of the outputs relative to their squares, with calibrated weights.
        nearest: relative squared error with weights rounded to nearest.
        absolute: squared error of the outputs, mean over the tokens, with calibrated weights.
        parameters: number of weights.
    """

    layer: int
    name: str
    relative: float
    nearest: float
    absolute: float
    parameters: int


def load(folder: Path, layer: int | None, name: str) -> Blocks:
    """Load the quantized weight of a linear layer of a decoder layer, or of the head (None).

    Raises:
        FileNotFoundError: the decoder layer was not quantized.
        ValueError: the decoder layer has no such linear layer.
    """
    from safetensors import safe_open

    with safe_open(file_of(folder, layer), framework="pt") as file:
        names = set(file.keys())
        if f"{name}.codes" not in names:
            raise ValueError(f"{file_of(folder, layer)} has no {name}")
        bits, block_size = _about(file)["forms"][name]

        def blocks(prefix: str) -> Blocks | None:
            if f"{prefix}.codes" not in names:
                return None
            return Blocks(
                **{part: file.get_tensor(f"{prefix}.{part}") for part in _PARTS},
                bits=bits,
                block_size=block_size,
                offsets=blocks(f"{prefix}.offsets"),
            )

        weight = blocks(name)
        assert weight is not None
        return weight


def names(folder: Path, layer: int | None) -> set[str]:
    """Return the names of the linear layers in a file; empty without the file."""
    from safetensors import safe_open

    path = file_of(folder, layer)
    if not path.exists():
        return set()
    with safe_open(path, framework="np") as file:
        return set(_about(file)["forms"])


def errors(folder: Path) -> list[LinearError]:
    """Read the errors of all linear layers, by layer; those of the head are last."""
    from safetensors import safe_open

    listed = []
    for path in files(folder):
        # Reading the metadata does not need torch.
        with safe_open(path, framework="np") as file:
            listed += [LinearError(**fields) for fields in _about(file)["errors"]]
    return listed


def place(layer: int, name: str) -> str:
    """Return how a linear layer is named among those of all layers; layer -1 is the head."""
    return f"{layer}.{name}" if layer >= 0 else name


def files(folder: Path) -> list[Path]:
    """List the files of a folder, by layer; other files that a job has there are not included."""
    return [*sorted(folder.glob("layer-*.safetensors")), *folder.glob("head.safetensors")]


def file_of(folder: Path, layer: int | None) -> Path:
    """Return the file of a decoder layer, or of the head (None)."""
    return folder / ("head.safetensors" if layer is None else f"layer-{layer:03}.safetensors")


def _about(file: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(file.metadata()["about"])
    return about


def check(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a file that was written with other settings.

    Raises:
        ValueError: the settings differ.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = _about(file)["settings"]
    if stored != settings:
        raise ValueError(f"{path} was written with other settings: remove the folder")


def save(
    path: Path, linears: dict[str, tuple[Blocks, LinearError]], settings: dict[str, Any]
) -> None:
    """Write the quantized weight and the errors of each linear layer, by name, to a file.

    Raises:
        OSError: the disk is full.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    for name, (weight, _) in linears.items():
        for prefix, blocks in ((name, weight), (f"{name}.offsets", weight.offsets)):
            if blocks is not None:
                tensors |= {
                    f"{prefix}.{part}": getattr(blocks, part).contiguous() for part in _PARTS
                }
    # A single entry: the library writes several in random order.
    about = {
        "settings": settings,
        "errors": [asdict(error) for _, error in linears.values()],
        "forms": {name: (weight.bits, weight.block_size) for name, (weight, _) in linears.items()},
    }
    with written_aside(path) as file:
        file.write(to_bytes(tensors, metadata={"about": json.dumps(about)}))
