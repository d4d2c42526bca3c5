"""Tensors of ONNX Runtime as arrays of NumPy."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.onnx_session import Element, Value

_TYPES = {Element.FLOAT: np.float32, Element.INT64: np.int64, Element.FLOAT16: np.float16}
_ELEMENTS = {np.dtype(kind): element for element, kind in _TYPES.items()}


def type_of(element: Element) -> npt.DTypeLike:
    """Return the type that NumPy has for elements."""
    return _TYPES[element]


def around(array: npt.NDArray[Any]) -> Value:
    """Make a tensor around a contiguous array of such elements, which must outlive it."""
    assert array.flags.c_contiguous
    kind = _ELEMENTS[array.dtype]
    return Value.around(array.ctypes.data, array.nbytes, array.shape, kind)


def view_of(value: Value) -> npt.NDArray[Any]:
    """Return the elements of a tensor, which must outlive the array."""
    element, shape = value.described()
    kind = np.dtype(_TYPES[element])
    size = int(np.prod(shape)) * kind.itemsize
    memory: Any = (ctypes.c_byte * size).from_address(value.address)
    return np.frombuffer(memory, kind).reshape(shape)
