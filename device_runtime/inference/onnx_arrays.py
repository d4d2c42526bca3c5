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


def copy_of(value: Value) -> npt.NDArray[Any]:
    """Copy a tensor."""
    element, shape = value.described()
    array = np.empty(shape, _TYPES[element])
    ctypes.memmove(array.ctypes.data, value.address, array.nbytes)
    return array
