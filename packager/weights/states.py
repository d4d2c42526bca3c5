"""Hidden states on disk: a job that is started again continues from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.durable import written_aside

if TYPE_CHECKING:
    from torch import Tensor

_LAST = "hidden.safetensors"


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a file, which appears whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    from safetensors.torch import save as to_bytes

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as file:
        file.write(to_bytes(whole))


def load(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def keep(folder: Path, layers: int, hidden: Tensor) -> None:
    """Store the outputs of the last layer that is done, in place of those of the one before.

    Args:
        folder: the job's folder.
        layers: number of layers that are done.
        hidden: the outputs.

    Raises:
        OSError: the disk is full.
    """
    import torch

    save(folder / _LAST, {"layers": torch.tensor(layers), "hidden": hidden})


def resume(folder: Path, first: Tensor) -> tuple[int, Tensor]:
    """Return the number of layers that are done, and the inputs of the next.

    Args:
        folder: the job's folder.
        first: inputs of the first layer, for a job that has just begun.
    """
    if not (folder / _LAST).exists():
        return 0, first
    state = load(folder / _LAST)
    return int(state["layers"]), state["hidden"]


def forget(folder: Path) -> None:
    """Remove what `keep` has stored."""
    (folder / _LAST).unlink(missing_ok=True)
