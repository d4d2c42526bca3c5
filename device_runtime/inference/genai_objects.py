"""Generators, tensors and images of ONNX Runtime GenAI, as Python's objects."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_bool, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.genai_library import Handle, Model, call, create, function, library

_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
"""Types of elements, by OgaElementType."""
_NUMBERS = {np.dtype(kind): number for number, kind in _TYPES.items()}


class Adapters(Handle):
    """Adapters of a model."""

    def __init__(self, model: Model) -> None:
        """Begin without adapters."""
        super().__init__("Adapters", create("OgaCreateAdapters", model.pointer))

    def load(self, file: Path, name: str) -> None:
        """Load an adapter, and give it a name.

        Raises:
            RuntimeError: it does not load.
        """
        call("OgaLoadAdapter", self.pointer, str(file).encode(), name.encode())


class Tensor(Handle):
    """An array of the library."""

    def __init__(self, pointer: c_void_p) -> None:
        """Own a tensor."""
        super().__init__("Tensor", pointer)

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> "Tensor":
        """Copy an array.

        Raises:
            RuntimeError: its elements have a type that the library does not know.
        """
        pointer = create("OgaCreateTensorFromBuffer", None, *_described(array))
        array = np.ascontiguousarray(array)
        ctypes.memmove(create("OgaTensorGetData", pointer), array.ctypes.data, array.nbytes)
        return cls(pointer)

    def as_numpy(self) -> npt.NDArray[Any]:
        """Return a copy.

        Raises:
            RuntimeError: its elements have a type that NumPy does not know.
        """
        return _copy(self.pointer)


class NamedTensors(Handle):
    """Inputs of a model."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Make inputs.

        Args:
            values: arrays, and tensors that the library made, by their names.
        """
        super().__init__("NamedTensors", create("OgaCreateNamedTensors"))
        for name, value in values.items():
            tensor = value if isinstance(value, Tensor) else Tensor.of(value)
            call("OgaNamedTensorsSet", self.pointer, name.encode(), tensor.pointer)


class ImageProcessor(Handle):
    """The part of a model that turns pictures into its inputs."""

    def __init__(self, model: Model) -> None:
        """Load it.

        Raises:
            RuntimeError: it does not load.
        """
        pointer = create("OgaCreateMultiModalProcessor", model.pointer)
        super().__init__("MultiModalProcessor", pointer)

    def __call__(self, prompt: str, files: Sequence[bytes]) -> dict[str, Tensor]:
        """Return the inputs of a prompt with pictures, tensors by their names.

        Raises:
            RuntimeError: a picture cannot be read.
        """
        sizes = (c_size_t * len(files))(*map(len, files))
        data = (c_char_p * len(files))(*files)
        images = Handle(
            "Images", create("OgaLoadImagesFromBuffers", data, sizes, c_size_t(len(files)))
        )
        named = Handle(
            "NamedTensors",
            create("OgaProcessorProcessImages", self.pointer, prompt.encode(), images.pointer),
        )
        return {
            name: Tensor(create("OgaNamedTensorsGet", named.pointer, name.encode()))
            for name in _names(named)
        }


class Generator(Handle):
    """A KV cache, and the tokens in it."""

    def __init__(self, model: Model, **options: float | bool) -> None:
        """Create a generator.

        Args:
            model: the model.
            options: search options, as in genai_config.json.

        Raises:
            RuntimeError: the engine rejects an option.
        """
        params = Handle("GeneratorParams", create("OgaCreateGeneratorParams", model.pointer))
        for name, value in options.items():
            flag = isinstance(value, bool)
            kind, passed = ("Bool", c_bool(value)) if flag else ("Number", c_double(value))
            call(f"OgaGeneratorParamsSetSearch{kind}", params.pointer, name.encode(), passed)
        pointer = create("OgaCreateGenerator", model.pointer, params.pointer)
        super().__init__("Generator", pointer)

    def set_active_adapter(self, adapters: Adapters, name: str) -> None:
        """Have an adapter take part."""
        call("OgaSetActiveAdapter", self.pointer, adapters.pointer, name.encode())

    def set_inputs(self, inputs: NamedTensors) -> None:
        """Prefill a prompt that is more than tokens."""
        call("OgaGenerator_SetInputs", self.pointer, inputs.pointer)

    def append_tokens(self, tokens: npt.NDArray[np.int32]) -> None:
        """Prefill tokens."""
        tokens = np.ascontiguousarray(tokens, np.int32)
        data = c_void_p(tokens.ctypes.data)
        call("OgaGenerator_AppendTokens", self.pointer, data, c_size_t(tokens.size))

    def join_step(self) -> bool:
        """Return False: each generator takes a run of its own."""
        return False

    def keep_from(self, length: int) -> None:
        """Do nothing: it keeps what it keeps."""

    def generate_next_token(self) -> None:
        """Choose the next token, and decode it."""
        call("OgaGenerator_GenerateNextToken", self.pointer)

    def get_next_tokens(self) -> list[int]:
        """Return the token that was chosen last, of each answer."""
        tokens, count = ctypes.POINTER(c_int32)(), c_size_t()
        call(
            *("OgaGenerator_GetNextTokens", self.pointer),
            *(ctypes.byref(tokens), ctypes.byref(count)),
        )
        return tokens[: count.value]

    def get_sequence(self, index: int) -> list[int]:
        """Return all tokens of an answer, those of the prompt included."""
        place = c_size_t(index)
        count = function("OgaGenerator_GetSequenceCount", c_size_t)(self.pointer, place)
        data = function("OgaGenerator_GetSequenceData", c_void_p)(self.pointer, place)
        return ctypes.cast(data, ctypes.POINTER(c_int32))[:count]

    def is_done(self) -> bool:
        """Return whether all answers have ended."""
        done: bool = function("OgaGenerator_IsDone", c_bool)(self.pointer)
        return done

    def get_logits(self) -> npt.NDArray[np.float32]:
        """Return the scores of the next token, float32 [answers, 1, vocabulary]."""
        return _array(create("OgaGenerator_GetLogits", self.pointer))

    def set_logits(self, logits: npt.NDArray[np.float32]) -> None:
        """Replace the scores of the next token."""
        logits = np.ascontiguousarray(logits, np.float32)
        data = c_void_p(logits.ctypes.data)
        tensor = create("OgaCreateTensorFromBuffer", data, *_described(logits))
        try:
            call("OgaGenerator_SetLogits", self.pointer, tensor)
        finally:
            library().OgaDestroyTensor(tensor)

    def get_input(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of an input of the last run."""
        return _array(create("OgaGenerator_GetInput", self.pointer, name.encode()))

    def get_output(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of an output of the last run."""
        return _array(create("OgaGenerator_GetOutput", self.pointer, name.encode()))

    def rewind_to(self, length: int) -> None:
        """Discard all tokens from this position on."""
        call("OgaGenerator_RewindTo", self.pointer, c_size_t(length))

    def snapshot_state(self) -> None:
        """Keep the states of layers without a KV cache, so that a rewind can end here."""
        call("OgaGenerator_SnapshotState", self.pointer)


def _described(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    """Return shape, rank and type of an array, as the library takes them."""
    number = _NUMBERS.get(array.dtype)
    if number is None:
        raise RuntimeError(f"unsupported type of elements: {array.dtype}")
    return (c_int64 * array.ndim)(*array.shape), c_size_t(array.ndim), c_int(number)


def _array(tensor: c_void_p) -> npt.NDArray[Any]:
    """Copy a tensor into an array, and destroy it."""
    try:
        return _copy(tensor)
    finally:
        library().OgaDestroyTensor(tensor)


def _copy(tensor: c_void_p) -> npt.NDArray[Any]:
    """Copy a tensor into an array.

    Raises:
        RuntimeError: its elements have a type that NumPy does not know.
    """
    rank, number = c_size_t(), c_int()
    call("OgaTensorGetShapeRank", tensor, ctypes.byref(rank))
    call("OgaTensorGetType", tensor, ctypes.byref(number))
    shape = (c_int64 * rank.value)()
    call("OgaTensorGetShape", tensor, shape, rank)
    kind = _TYPES.get(number.value)
    if kind is None:
        raise RuntimeError(f"unsupported type of elements: {number.value}")
    array = np.empty(tuple(shape), kind)
    ctypes.memmove(array.ctypes.data, create("OgaTensorGetData", tensor), array.nbytes)
    return array


def _names(named: Handle) -> Iterator[str]:
    """Yield the names of tensors."""
    names = Handle("StringArray", create("OgaNamedTensorsGetNames", named.pointer))
    count = c_size_t()
    call("OgaStringArrayGetCount", names.pointer, ctypes.byref(count))
    for index in range(count.value):
        name = c_char_p()
        call("OgaStringArrayGetString", names.pointer, c_size_t(index), ctypes.byref(name))
        yield (name.value or b"").decode()
