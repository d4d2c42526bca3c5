"""Hidden states on disk: a job that is started again continues from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.durable import written_aside

if TYPE_CHECKING:
    from torch import Tensor


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
