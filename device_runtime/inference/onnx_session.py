"""A graph in ONNX Runtime, through the C functions of the library that ONNX Runtime GenAI brings.

The Python package of ONNX Runtime is a second copy of that library, 30 MB, which a kit does
without. The table of functions is part of its stable interface: entries are added at the end only
(onnxruntime_c_api.h, `OrtApi`).
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_VERSION = 11
"""Version of the interface that the functions below are of, or an older one."""


class _Function(IntEnum):
    """Places of functions in the table."""

    GET_ERROR_MESSAGE = 2
    CREATE_ENV = 3
    DISABLE_TELEMETRY_EVENTS = 6
    CREATE_SESSION = 7
    RUN = 9
    CREATE_SESSION_OPTIONS = 10
    SET_INTRA_OP_NUM_THREADS = 24
    CREATE_TENSOR_WITH_DATA = 49
    CREATE_CPU_MEMORY_INFO = 69
    RELEASE_STATUS = 93
    RELEASE_VALUE = 96


_FLOAT, _INT64 = 1, 7  # ONNXTensorElementDataType
_WARNING = 2  # OrtLoggingLevel
_DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 0, 0  # OrtAllocatorType, OrtMemType


class _ApiBase(ctypes.Structure):
    _fields_ = (("get_api", c_void_p), ("get_version_string", c_void_p))


class OnnxSession:
    """A graph with one input `tokens` int64 [1, tokens] and one output, float32 [1, width].

    It lives as long as its process: nothing of it is released.
    """

    def __init__(self, graph: Path, *, input: str, output: str, width: int, threads: int) -> None:
        """Load a graph.

        Args:
            graph: the ONNX file.
            input: name of its input.
            output: name of its output.
            width: length of the output.
            threads: number of threads; 0 for ONNX Runtime's own choice.

        Raises:
            RuntimeError: ONNX Runtime is missing, or the graph does not load.
        """
        self._input, self._output, self._width = input.encode(), output.encode(), width
        self._table = _functions()
        environment = self._create(_Function.CREATE_ENV, c_int(_WARNING), c_char_p(b"edgepack"))
        self._call(_Function.DISABLE_TELEMETRY_EVENTS, environment)
        options = self._create(_Function.CREATE_SESSION_OPTIONS)
        self._call(_Function.SET_INTRA_OP_NUM_THREADS, options, c_int(threads))
        path = c_char_p(str(graph).encode())
        self._session = self._create(_Function.CREATE_SESSION, environment, path, options)
        self._memory = self._create(
            _Function.CREATE_CPU_MEMORY_INFO, c_int(_DEVICE_ALLOCATOR), c_int(_DEFAULT_MEMORY)
        )

    def run(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Run the graph on the tokens of a text; return its output, [width].

        Raises:
            RuntimeError: the graph fails.
        """
        given = np.array([tokens], np.int64)
        result = np.zeros((1, self._width), np.float32)
        values = []
        try:
            values.append(self._tensor(given, _INT64))
            values.append(self._tensor(result, _FLOAT))
            names = [(c_char_p * 1)(name) for name in (self._input, self._output)]
            inputs, outputs = ((c_void_p * 1)(value) for value in values)
            self._call(
                _Function.RUN,
                *(self._session, c_void_p(None)),
                *(names[0], inputs, c_size_t(1)),
                *(names[1], c_size_t(1), outputs),
            )
        finally:
            for value in values:
                self._function(_Function.RELEASE_VALUE, None, c_void_p)(value)
        return result.reshape(-1)

    def _tensor(self, array: npt.NDArray[Any], kind: int) -> c_void_p:
        """Make a value of ONNX Runtime around an array, which must outlive it."""
        shape = (c_int64 * array.ndim)(*array.shape)
        return self._create(
            _Function.CREATE_TENSOR_WITH_DATA,
            *(self._memory, c_void_p(array.ctypes.data), c_size_t(array.nbytes)),
            *(shape, c_size_t(array.ndim), c_int(kind)),
        )

    def _create(self, function: _Function, *arguments: Any) -> c_void_p:
        """Call a function whose last argument is the place for what it makes."""
        created = c_void_p()
        self._call(function, *arguments, ctypes.pointer(created))
        return created

    def _call(self, function: _Function, *arguments: Any) -> None:
        """Call a function.

        Raises:
            RuntimeError: it fails.
        """
        status = self._function(function, c_void_p, *map(type, arguments))(*arguments)
        if status is not None:
            message = self._function(_Function.GET_ERROR_MESSAGE, c_char_p, c_void_p)(status)
            self._function(_Function.RELEASE_STATUS, None, c_void_p)(status)
            raise RuntimeError(message.decode(errors="replace"))

    def _function(self, function: _Function, result: Any, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *arguments)(self._table[function])


def _functions() -> Any:
    """Load the library, as ONNX Runtime GenAI does, and return its table of functions."""
    package = importlib.util.find_spec("onnxruntime")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    paths = [path for folder in folders for path in Path(folder).glob("capi/libonnxruntime.so*")]
    if not paths:
        raise RuntimeError("the library of ONNX Runtime is missing")
    get_base = ctypes.CDLL(str(paths[0])).OrtGetApiBase
    get_base.restype = ctypes.POINTER(_ApiBase)
    get_api = ctypes.CFUNCTYPE(c_void_p, c_uint32)(get_base().contents.get_api)
    return ctypes.cast(get_api(_VERSION), ctypes.POINTER(c_void_p))
