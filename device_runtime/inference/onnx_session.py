"""A graph in ONNX Runtime, through the C functions of the library that ONNX Runtime GenAI brings.

The Python package of ONNX Runtime is a second copy of that library, 30 MB, which a kit does
without.
"""

from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime import onnx_api
from device_runtime.onnx_api import Function

_VERSION = 11
"""Version of the interface that the functions below are of, or an older one."""

_FLOAT, _INT64 = 1, 7  # ONNXTensorElementDataType
_DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 0, 0  # OrtAllocatorType, OrtMemType


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
        self._api = onnx_api.load(_VERSION)
        environment = onnx_api.environment(self._api)
        options = self._api.create(Function.CREATE_SESSION_OPTIONS)
        self._api.call(Function.SET_INTRA_OP_NUM_THREADS, options, c_int(threads))
        path = c_char_p(str(graph).encode())
        self._session = self._api.create(Function.CREATE_SESSION, environment, path, options)
        self._memory = self._api.create(
            Function.CREATE_CPU_MEMORY_INFO, c_int(_DEVICE_ALLOCATOR), c_int(_DEFAULT_MEMORY)
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
            self._api.call(
                Function.RUN,
                *(self._session, c_void_p(None)),
                *(names[0], inputs, c_size_t(1)),
                *(names[1], c_size_t(1), outputs),
            )
        finally:
            for value in values:
                self._api.function(Function.RELEASE_VALUE, None, c_void_p)(value)
        return result.reshape(-1)

    def _tensor(self, array: npt.NDArray[Any], kind: int) -> c_void_p:
        """Make a value of ONNX Runtime around an array, which must outlive it."""
        shape = (c_int64 * array.ndim)(*array.shape)
        return self._api.create(
            Function.CREATE_TENSOR_WITH_DATA,
            *(self._memory, c_void_p(array.ctypes.data), c_size_t(array.nbytes)),
            *(shape, c_size_t(array.ndim), c_int(kind)),
        )
