"""Graphs in ONNX Runtime, through the C functions of the library that ONNX Runtime GenAI brings.

The Python package of ONNX Runtime is a second copy of that library, 30 MB, which a kit does
without. Nothing here needs NumPy: a graph can begin to load before all else is imported.
"""

import ctypes
import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from enum import IntEnum
from pathlib import Path

from device_runtime import onnx_api
from device_runtime.onnx_api import Function

_VERSION = 20
"""Version of the interface that the functions below are of, or an older one."""

_DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 0, 0  # OrtAllocatorType, OrtMemType


class Element(IntEnum):
    """Types of elements (ONNXTensorElementDataType)."""

    FLOAT = 1
    INT64 = 7
    FLOAT16 = 10


class Value:
    """A tensor, which is released with it; its memory only if ONNX Runtime allocated it.

    Attributes:
        pointer: the OrtValue.
    """

    def __init__(self, pointer: c_void_p) -> None:
        """Own a tensor."""
        self.pointer = pointer
        weakref.finalize(self, _api().function(Function.RELEASE_VALUE, None, c_void_p), pointer)

    @classmethod
    def around(cls, address: int, size: int, shape: Sequence[int], kind: Element) -> "Value":
        """Make a tensor around memory, which must outlive it.

        Args:
            address: where its data begin.
            size: size of its data, bytes.
            shape: its shape.
            kind: type of its elements.
        """
        return cls(
            _api().create(
                Function.CREATE_TENSOR_WITH_DATA,
                *(_memory(), c_void_p(address), c_size_t(size)),
                *((c_int64 * len(shape))(*shape), c_size_t(len(shape)), c_int(kind)),
            )
        )

    @property
    def address(self) -> int:
        """The address of its data."""
        return _api().create(Function.GET_TENSOR_DATA, self.pointer).value or 0

    def described(self) -> tuple[Element, tuple[int, ...]]:
        """Return the type of its elements, and its shape.

        Raises:
            ValueError: the type is not one of `Element`.
        """
        api = _api()
        info = api.create(Function.GET_TENSOR_TYPE_AND_SHAPE, self.pointer)
        try:
            return _described(info)
        finally:
            api.function(Function.RELEASE_TENSOR_TYPE_AND_SHAPE, None, c_void_p)(info)


class OnnxSession:
    """A graph, ready to run.

    Attributes:
        inputs: names of its inputs.
        outputs: names of its outputs.
    """

    def __init__(
        self,
        graph: Path,
        *,
        threads: int,
        trace: str = "",
        entries: Mapping[str, str] | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: the ONNX file.
            threads: number of threads; 0 for ONNX Runtime's own choice.
            trace: beginning of the path of a trace of all runs; empty for no trace.
            entries: options of the session, by the names that ONNX Runtime gives them.

        Raises:
            RuntimeError: ONNX Runtime is missing, or the graph does not load.
        """
        api = _api()
        options = api.create(Function.CREATE_SESSION_OPTIONS)
        api.call(Function.SET_INTRA_OP_NUM_THREADS, options, c_int(threads))
        if trace:
            api.call(Function.ENABLE_PROFILING, options, c_char_p(trace.encode()))
        for name, text in (entries or {}).items():
            key, value = c_char_p(name.encode()), c_char_p(text.encode())
            api.call(Function.ADD_SESSION_CONFIG_ENTRY, options, key, value)
        path = c_char_p(str(graph).encode())
        try:
            self._session = api.create(Function.CREATE_SESSION, _environment(), path, options)
        finally:
            api.function(Function.RELEASE_SESSION_OPTIONS, None, c_void_p)(options)
        release = api.function(Function.RELEASE_SESSION, None, c_void_p)
        # At the end of the program, threads of the library may still use it.
        weakref.finalize(self, release, self._session).atexit = False
        self.inputs = list(self._names(Function.GET_INPUT_COUNT, Function.GET_INPUT_NAME))
        self.outputs = list(self._names(Function.GET_OUTPUT_COUNT, Function.GET_OUTPUT_NAME))

    def described(self, name: str) -> tuple[Element, tuple[int, ...]]:
        """Return the type of the elements of an input, and its shape; -1 for what may vary.

        Raises:
            ValueError: it is not one of `Element`.
        """
        api = _api()
        place = c_size_t(self.inputs.index(name))
        described = api.create(Function.GET_INPUT_TYPE, self._session, place)
        try:
            return _described(api.create(Function.GET_TENSOR_TYPE, described))
        finally:
            api.function(Function.RELEASE_TYPE, None, c_void_p)(described)

    def run(self, binding: "Binding", adapter: c_void_p | None = None) -> dict[str, Value]:
        """Run the graph.

        Args:
            binding: tensors of its inputs and outputs.
            adapter: a LoRA adapter (`load_adapter`) that takes part; None for none.

        Returns:
            The outputs that ONNX Runtime made, by name.

        Raises:
            RuntimeError: the graph fails.
        """
        api = _api()
        options = c_void_p(None)
        if adapter is not None:
            options = api.create(Function.CREATE_RUN_OPTIONS)
            api.call(Function.ADD_ACTIVE_LORA_ADAPTER, options, adapter)
        try:
            api.call(
                *(Function.RUN, self._session, options),
                *(binding.inputs.names, binding.inputs.values, c_size_t(len(binding.inputs.names))),
                *(binding.outputs.names, c_size_t(len(binding.outputs.names))),
                binding.outputs.values,
            )
        finally:
            if adapter is not None:
                api.function(Function.RELEASE_RUN_OPTIONS, None, c_void_p)(options)
        return {name: binding.outputs.take(name) for name in binding.made}

    def _names(self, count: Function, name: Function) -> Iterator[str]:
        api = _api()
        total = c_size_t()
        api.call(count, self._session, ctypes.pointer(total))
        allocator = api.create(Function.GET_DEFAULT_ALLOCATOR)
        for place in range(total.value):
            text = api.create(name, self._session, c_size_t(place), allocator)
            yield (ctypes.cast(text, c_char_p).value or b"").decode()
            api.call(Function.ALLOCATOR_FREE, allocator, text)


class Binding:
    """Tensors in the places of a graph's inputs and outputs.

    Attributes:
        inputs: of inputs.
        outputs: of outputs.
        made: names of the outputs that ONNX Runtime makes a tensor for, in each run.
    """

    def __init__(
        self, inputs: Mapping[str, Value | None], outputs: Mapping[str, Value | None]
    ) -> None:
        """Bind tensors.

        Args:
            inputs: by name; None for one that is set before each run.
            outputs: by name; None for one that ONNX Runtime makes.
        """
        self.inputs = _Places(inputs)
        self.outputs = _Places(outputs)
        self.made = [name for name, value in outputs.items() if value is None]


class _Places:
    """Named tensors, as arrays that a run takes."""

    def __init__(self, values: Mapping[str, Value | None]) -> None:
        self.names = (c_char_p * len(values))(*(name.encode() for name in values))
        self.values = (c_void_p * len(values))()
        self._places = {name: place for place, name in enumerate(values)}
        self._alive: dict[str, Value | None] = {}
        for name, value in values.items():
            self.set(name, value)

    def set(self, name: str, value: Value | None) -> None:
        self._alive[name] = value
        self.values[self._places[name]] = value.pointer if value is not None else None

    def take(self, name: str) -> Value:
        """Take the tensor that a run made."""
        place = self._places[name]
        value = Value(c_void_p(self.values[place]))
        self.values[place] = None
        return value


def load_adapter(file: Path) -> c_void_p:
    """Load a LoRA adapter, for as long as the process lives.

    Raises:
        RuntimeError: it does not load.
    """
    path = c_char_p(str(file).encode())
    return _api().create(Function.CREATE_LORA_ADAPTER, path, c_void_p(None))


def _described(info: c_void_p) -> tuple[Element, tuple[int, ...]]:
    api = _api()
    kind, rank = c_int(), c_size_t()
    api.call(Function.GET_ELEMENT_TYPE, info, ctypes.pointer(kind))
    api.call(Function.GET_DIMENSIONS_COUNT, info, ctypes.pointer(rank))
    shape = (c_int64 * rank.value)()
    api.call(Function.GET_DIMENSIONS, info, shape, rank)
    return Element(kind.value), tuple(shape)


@functools.cache
def _api() -> onnx_api.Functions:
    return onnx_api.load(_VERSION)


@functools.cache
def _environment() -> c_void_p:
    return onnx_api.environment(_api())


@functools.cache
def _memory() -> c_void_p:
    kinds = (c_int(_DEVICE_ALLOCATOR), c_int(_DEFAULT_MEMORY))
    return _api().create(Function.CREATE_CPU_MEMORY_INFO, *kinds)
