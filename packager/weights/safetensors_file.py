"""Safetensors files as bytes: headers, and tensors copied under other names without being read.

The format is 8 bytes with the length of the header (little-endian), the header as JSON, then the
data, without a gap.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors library itself."""

_METADATA = "__metadata__"
_ALIGNMENT = 8
_PIECE = 1 << 20


class Tensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        dtype: element type, as the format names it (`BF16`).
        shape: its dimensions.
        start: offset of its data in the file, bytes.
        size: length of its data, bytes.
    """

    dtype: str
    shape: list[int]
    start: int
    size: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(prod(self.shape))


def tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name.

    Raises:
        ValueError: the file is damaged, incomplete or not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        listed = {
            name: Tensor(
                dtype=entry["dtype"],
                shape=entry["shape"],
                start=8 + length + entry["data_offsets"][0],
                size=entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
            if name != _METADATA
        }
        end = max((tensor.start + tensor.size for tensor in listed.values()), default=8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError("is damaged or not a safetensors file") from None
    size = path.stat().st_size
    if end != size:
        raise ValueError(f"is damaged: {size} bytes, but its header implies {end}")
    return listed


def copy(files: Iterable[Path], target: Path, names: Mapping[str, str]) -> None:
    """Copy tensors of some files into a new one, in their order there.

    Args:
        files: files with the tensors.
        target: the new file.
        names: names in the new file, by name of the tensors to copy.

    Raises:
        ValueError: a file is damaged.
        OSError: the disk is full.
    """
    chosen = [
        (path, names[name], tensor)
        for path in files
        for name, tensor in tensors(path).items()
        if name in names
    ]
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    end = 0
    for _, name, tensor in chosen:
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [end, end + tensor.size],
        }
        end += tensor.size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    with target.open("wb") as output:
        output.write(len(head).to_bytes(8, "little") + head)
        for path, _, tensor in chosen:
            with path.open("rb") as file:
                file.seek(tensor.start)
                _copy(file, output, tensor.size)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy some bytes from the place of one file to that of another."""
    while size:
        piece = source.read(min(size, _PIECE))
        if not piece:
            raise ValueError("is shorter than when its header was read")
        target.write(piece)
        size -= len(piece)
