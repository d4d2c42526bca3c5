"""The C functions of ONNX Runtime, of the library that ONNX Runtime GenAI loads.

The table of functions is part of its stable interface: entries are added at the end only
(onnxruntime_c_api.h, `OrtApi`).
"""

import ctypes
import importlib.util
from ctypes import c_char_p, c_int, c_uint32, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any


class Function(IntEnum):
    """Places of functions in the table."""

    GET_ERROR_MESSAGE = 2
    CREATE_ENV = 3
    DISABLE_TELEMETRY_EVENTS = 6
    CREATE_SESSION = 7
    RUN = 9
    CREATE_SESSION_OPTIONS = 10
    ENABLE_PROFILING = 14
    SET_INTRA_OP_NUM_THREADS = 24
    GET_INPUT_COUNT = 30
    GET_OUTPUT_COUNT = 31
    GET_INPUT_TYPE = 33
    GET_INPUT_NAME = 36
    GET_OUTPUT_NAME = 37
    CREATE_RUN_OPTIONS = 39
    CREATE_TENSOR_WITH_DATA = 49
    GET_TENSOR_DATA = 51
    GET_TENSOR_TYPE = 55
    GET_ELEMENT_TYPE = 60
    GET_DIMENSIONS_COUNT = 61
    GET_DIMENSIONS = 62
    GET_TENSOR_TYPE_AND_SHAPE = 65
    CREATE_CPU_MEMORY_INFO = 69
    ALLOCATOR_FREE = 76
    GET_DEFAULT_ALLOCATOR = 78
    RELEASE_STATUS = 93
    RELEASE_SESSION = 95
    RELEASE_VALUE = 96
    RELEASE_RUN_OPTIONS = 97
    RELEASE_TYPE = 98
    RELEASE_TENSOR_TYPE_AND_SHAPE = 99
    RELEASE_SESSION_OPTIONS = 100
    ADD_SESSION_CONFIG_ENTRY = 130
    CREATE_LORA_ADAPTER = 280
    ADD_ACTIVE_LORA_ADAPTER = 283
    REGISTER_LIBRARY = 301


_ERROR = 3  # OrtLoggingLevel


class _ApiBase(ctypes.Structure):
    _fields_ = (("get_api", c_void_p), ("get_version_string", c_void_p))


class Functions:
    """A table of functions."""

    def __init__(self, table: Any, main: "Functions | None" = None) -> None:
        """Wrap a table.

        Args:
            table: pointer to the first function.
            main: the table of `Function`, by which errors are read; None if this is it.
        """
        self._table = ctypes.cast(table, ctypes.POINTER(c_void_p))
        self._main = main or self
        self._functions: dict[tuple[Any, ...], Any] = {}

    def create(self, place: int, *arguments: Any) -> c_void_p:
        """Call a function whose last argument is the place for what it makes.

        Raises:
            RuntimeError: it fails.
        """
        created = c_void_p()
        self.call(place, *arguments, ctypes.pointer(created))
        return created

    def call(self, place: int, *arguments: Any) -> None:
        """Call a function that returns a status.

        Raises:
            RuntimeError: it fails.
        """
        status = self.function(place, c_void_p, *map(type, arguments))(*arguments)
        if status is not None:
            read = self._main.function(Function.GET_ERROR_MESSAGE, c_char_p, c_void_p)
            message = read(status)
            self._main.function(Function.RELEASE_STATUS, None, c_void_p)(status)
            raise RuntimeError(message.decode(errors="replace"))

    def function(self, place: int, result: Any, *arguments: Any) -> Any:
        """Return a function of the table, given the types of its result and arguments."""
        key = (place, result, *arguments)
        if key not in self._functions:
            self._functions[key] = ctypes.CFUNCTYPE(result, *arguments)(self._table[place])
        return self._functions[key]


def load(version: int) -> Functions:
    """Load the library, as ONNX Runtime GenAI does, and return its table of functions.

    Args:
        version: version of the interface that has the functions to be called, or a later one.

    Raises:
        RuntimeError: the library is missing, or older than that.
    """
    table = ctypes.CFUNCTYPE(c_void_p, c_uint32)(_base().get_api)(version)
    if table is None:
        raise RuntimeError(f"the library of ONNX Runtime is older than 1.{version}")
    return Functions(table)


def library_version() -> str:
    """Return the version of the library.

    Raises:
        RuntimeError: it is missing.
    """
    text = ctypes.CFUNCTYPE(c_char_p)(_base().get_version_string)()
    return text.decode() if text else ""


def path() -> Path:
    """Find the library.

    Raises:
        RuntimeError: it is missing.
    """
    package = importlib.util.find_spec("onnxruntime")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    paths = [path for folder in folders for path in Path(folder).glob("capi/libonnxruntime.so*")]
    if not paths:
        raise RuntimeError("the library of ONNX Runtime is missing")
    return paths[0]


def _base() -> _ApiBase:
    get_base = ctypes.CDLL(str(path())).OrtGetApiBase
    get_base.restype = ctypes.POINTER(_ApiBase)
    base: _ApiBase = get_base().contents
    return base


def environment(api: Functions) -> c_void_p:
    """Create an environment of ONNX Runtime, without telemetry."""
    created = api.create(Function.CREATE_ENV, c_int(_ERROR), c_char_p(b"edgepack"))
    api.call(Function.DISABLE_TELEMETRY_EVENTS, created)
    return created
