"""Quantized weights of a model in files, one for each decoder layer and one for the head.

In a file, the linear layer `mlp.down_proj` has `mlp.down_proj.codes`, `.scales` and `.zeros` as in
`blocks.Blocks`; the metadata (`about`) says with which settings they were made, and how well they
keep the layer's outputs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device_runtime.durable import written_aside
from packager.weights.blocks import Blocks

BITS = 4
HEAD = "lm_head"


@dataclass(frozen=True, kw_only=True)
class LinearError:
    """Errors of a linear layer's outputs after quantization, over the calibration text.

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


def load(folder: Path, layer: int | None, name: str) -> Blocks:
    """The quantized weight of a linear layer below a decoder layer; of the head if that is None.

    Raises:
        FileNotFoundError: the layer was not quantized.
        ValueError: it has no such linear layer.
    """
    from safetensors import safe_open

    with safe_open(file_of(folder, layer), framework="pt") as file:
        if f"{name}.codes" not in file.keys():  # noqa: SIM118 - no mapping
            raise ValueError(f"{file_of(folder, layer)} has no {name}")
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
        # Of the metadata alone, for which torch is not needed.
        with safe_open(path, framework="np") as file:
            found += [LinearError(**each) for each in _about(file)["errors"]]
    return found


def file_of(folder: Path, layer: int | None) -> Path:
    """The file of a decoder layer; of the head if that is None."""
    return folder / ("head.safetensors" if layer is None else f"layer-{layer:03}.safetensors")


def _about(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.metadata()["about"])
    return found


def check(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a file that was made with other settings.

    Raises:
        ValueError: it was.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = _about(file)["settings"]
    if found != settings:
        raise ValueError(f"{path} was made with other settings: remove the folder")


def save(path: Path, made: dict[str, tuple[Blocks, LinearError]], settings: dict[str, Any]) -> None:
    """Write a file: the quantized weight and the error of each linear layer, by name.

    Raises:
        OSError: the disk is full.
    """
    from safetensors.torch import save as to_bytes

    tensors = {
        f"{name}.{part}": getattr(found, part).contiguous()
        for name, (found, _) in made.items()
        for part in ("codes", "scales", "zeros")
    }
    # One entry: of several, the library writes another order each time.
    about = {"settings": settings, "errors": [asdict(error) for _, error in made.values()]}
    with written_aside(path) as file:
        file.write(to_bytes(tensors, metadata={"about": json.dumps(about)}))
