"""Reader of GGUF headers.

The format is specified in docs/gguf.md of the ggml project; versions 2 and 3 are supported.
"""

import functools
import os
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from packager.errors import ModelSourceError

# Value types of the metadata that have a fixed size, as struct codes.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_MAX_COUNT = 1 << 24
_MAX_NUMBERS = 1024  # arrays with a number for each layer are read, those with one a token are not
_DAMAGED = "Download the file again and compare its sha256 with the publisher's."

_OTHER_TYPE = "Use a GGUF file of another quantization, such as Q8_0, or the Hugging Face folder."


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """Header of a GGUF file.

    Attributes:
        metadata: values by key; of an array the numbers as a tuple, or else the length.
        parameters: number of weights.
        tensors: names of the tensors.
        types: number of weights in matrices by tensor type (`Q4_K`); for matrices of experts, with
            `of experts` added.
    """

    metadata: dict[str, Any]
    parameters: int
    tensors: frozenset[str]
    types: dict[str, int]

    @property
    def architecture(self) -> str:
        """Name of the architecture in the file."""
        return str(self.metadata.get("general.architecture", ""))


def is_gguf(path: Path) -> bool:
    """Return whether a file starts with the magic of GGUF."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read(path: Path) -> GgufFile:
    """Read the header and check that the file contains all tensors that it lists.

    Raises:
        ModelSourceError: the file is damaged, truncated, or has tensors of an unsupported type.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return _read(file, size)
        except _DamagedError as error:
            raise ModelSourceError(
                f"the GGUF file {path} is invalid: {error}", hint=_DAMAGED
            ) from None


class _DamagedError(Exception):
    pass


def _read(file: BinaryIO, size: int) -> GgufFile:
    magic, version = _take(file, "4sI")
    if magic != b"GGUF" or version not in (2, 3):
        raise _DamagedError(f"not a little-endian GGUF of version 2 or 3 (version {version})")
    tensor_count, entry_count = _take(file, "QQ")
    if tensor_count > _MAX_COUNT or entry_count > _MAX_COUNT:
        raise _DamagedError("damaged header")
    metadata = {}
    for _ in range(entry_count):
        name = _string(file)
        metadata[name] = _value(file, *_take(file, "I"))
    ends, parameters, names = [0], 0, set()
    types: Counter[str] = Counter()
    for _ in range(tensor_count):
        name = _string(file)
        (dimensions,) = _take(file, "I")
        if dimensions > 8:
            raise _DamagedError(f"the tensor {name} is damaged")
        shape = _take(file, f"{dimensions}Q")
        kind, offset = _take(file, "IQ")
        ends.append(offset + _tensor_bytes(name, prod(shape), kind))
        parameters += prod(shape)
        names.add(name)
        if dimensions > 1:
            # Weights of experts have a dimension more.
            types[_name(kind) + " of experts" * (dimensions > 2)] += prod(shape)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _DamagedError("damaged header")
    start = -(-file.tell() // alignment) * alignment
    if start + max(ends) > size:
        raise _DamagedError(f"truncated: {size} of {start + max(ends)} bytes")
    return GgufFile(
        metadata=metadata, parameters=parameters, tensors=frozenset(names), types=dict(types)
    )


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    length = struct.calcsize(f"<{layout}")
    data = file.read(length)
    if len(data) < length:
        raise _DamagedError("truncated within its header")
    return struct.unpack(f"<{layout}", data)


def _string(file: BinaryIO) -> str:
    (length,) = _take(file, "Q")
    if length > _MAX_COUNT:
        raise _DamagedError("damaged header")
    return bytes(_take(file, f"{length}s")[0]).decode(errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind in _SCALARS:
        return _take(file, _SCALARS[kind])[0]
    if kind != _ARRAY:
        raise _DamagedError(f"damaged header (value type {kind})")
    inner, count = _take(file, "IQ")
    if inner in _SCALARS and count <= _MAX_NUMBERS:
        return _take(file, f"{count}{_SCALARS[inner]}")
    if inner in _SCALARS:
        file.seek(struct.calcsize(f"<{_SCALARS[inner]}") * count, os.SEEK_CUR)
    elif inner == _STRING and count <= _MAX_COUNT:
        for _ in range(count):
            _string(file)
    else:
        raise _DamagedError("damaged header")
    return count


def _tensor_bytes(name: str, elements: int, kind: int) -> int:
    try:
        block, block_bytes = _block(kind)
    except (ValueError, KeyError, NotImplementedError):
        raise ModelSourceError(
            f"the tensor {name} of the GGUF file has type {kind}, which is not supported",
            hint=_OTHER_TYPE,
        ) from None
    return -(-elements // block) * block_bytes


def _name(kind: int) -> str:
    from gguf import GGMLQuantizationType

    return str(GGMLQuantizationType(kind).name)


@functools.cache
def _block(kind: int) -> tuple[int, int]:
    """Return elements and bytes per block of a tensor type that can be decoded."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    block, block_bytes = map(int, GGML_QUANT_SIZES[GGMLQuantizationType(kind)])
    dequantize(np.zeros(block_bytes, np.uint8), GGMLQuantizationType(kind))
    return block, block_bytes
