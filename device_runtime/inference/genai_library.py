"""The library of ONNX Runtime GenAI, by its C functions (ort_genai_c.h), and its models.

Its Python package holds the interpreter's lock for as long as a model loads or a prompt is
prefilled; a call through ctypes does not, so other threads go on meanwhile. Nothing here needs
NumPy: a model can begin to load before all else is imported.
"""

import atexit
import ctypes
import functools
import importlib.util
import json
import os
import threading
import weakref
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_void_p
from pathlib import Path
from typing import Any

from device_runtime import onnx_api
from device_runtime.errors import EngineError
from device_runtime.inference.onnx_session import OnnxSession
from device_runtime.onnx_api import Function
from device_runtime.processor import HALF_GRAPH, Processor, cores, gpu_library

LONG_ROPE_FROM = 4096
"""Tokens beyond which Phi-3.5 uses its long rotary factors, for earlier positions as well: a
longer prompt must be prefilled at once, so that no cached position has short factors."""

_NAME = "libonnxruntime-genai.so"
_PLAIN_NAMES = {
    *("input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names"),
    *("logits", "present_key_names", "present_value_names"),
}
"""Inputs and outputs of a model that needs ONNX Runtime alone, as genai_config.json names them."""
_TRACE = "enable_profiling"
_PLAIN_OPTIONS = {"intra_op_num_threads", "log_id", "provider_options", _TRACE}
"""Options of a session that such a model may have, beside ONNX Runtime's own strings."""
_GPU_VERSION = 22
"""Version of ONNX Runtime's interface that has plug-ins."""


@functools.cache
def library() -> ctypes.CDLL:
    """Load the library, without telemetry.

    Raises:
        RuntimeError: it is missing.
        OSError: it does not load.
    """
    # Official builds send telemetry to their vendor unless disabled before they are loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["ORT_TELEMETRY_DISABLED"] = "1"
    # It looks for ONNX Runtime there.
    os.environ["ORT_LIB_PATH"] = str(onnx_api.path())
    package = importlib.util.find_spec("onnxruntime_genai")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    if not folders:
        raise RuntimeError("the library of ONNX Runtime GenAI is missing")
    ctypes.CDLL(os.environ["ORT_LIB_PATH"])
    loaded = ctypes.CDLL(str(Path(folders[0], _NAME)))
    loaded.OgaSetTelemetryEnabled(c_bool(False))
    # Before the first finalizer, so that it runs after the last one.
    atexit.register(loaded.OgaShutdown)
    return loaded


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns a result, which is null unless it failed.

    Args:
        name: name of the function.
        arguments: its arguments, as ctypes takes them.

    Raises:
        RuntimeError: it failed.
    """
    result = function(name, c_void_p)(*arguments)
    if result is not None:
        message = function("OgaResultGetError", c_char_p)(c_void_p(result))
        text = message.decode(errors="replace") if message else name
        library().OgaDestroyResult(c_void_p(result))
        raise RuntimeError(text)


@functools.cache
def function(name: str, result: Any) -> Callable[..., Any]:
    """Return a function of the library that returns a value of this type."""
    # `getattr` would return the same object, and change its type, each time.
    called = library()[name]
    called.restype = result
    return called


def create(name: str, *arguments: Any) -> c_void_p:
    """Call a function whose last argument is the place for what it makes.

    Raises:
        RuntimeError: it failed.
    """
    created = c_void_p()
    call(name, *arguments, ctypes.byref(created))
    return created


class Handle:
    """An object of the library, which is destroyed with it.

    Attributes:
        pointer: the object.
    """

    def __init__(self, kind: str, pointer: c_void_p) -> None:
        """Own an object.

        Args:
            kind: its type, as in the names of functions: `Model`.
            pointer: the object.
        """
        self.pointer = pointer
        weakref.finalize(self, getattr(library(), f"OgaDestroy{kind}"), pointer)


class Model(Handle):
    """A model.

    Attributes:
        type: its type in genai_config.json.
    """

    def __init__(self, folder: Path, overlay: dict[str, Any], providers: list[str] | None) -> None:
        """Load a model.

        Args:
            folder: holds genai_config.json and the graphs.
            overlay: what to change in the section `model` of genai_config.json.
            providers: execution providers beside the CPU; None for those of genai_config.json.

        Raises:
            RuntimeError: it does not load.
        """
        config = Handle("Config", create("OgaCreateConfig", str(folder).encode()))
        if providers is not None:
            call("OgaConfigClearProviders", config.pointer)
        for provider in providers or ():
            call("OgaConfigAppendProvider", config.pointer, provider.encode())
        call("OgaConfigOverlay", config.pointer, json.dumps({"model": overlay}).encode())
        super().__init__("Model", create("OgaCreateModelFromConfig", config.pointer))
        name = create("OgaModelGetType", self.pointer)
        self.type = (ctypes.cast(name, c_char_p).value or b"").decode()
        library().OgaDestroyString(name)


class Loading:
    """A model that loads in a thread of its own, while this one imports and reads other things."""

    def __init__(
        self,
        folder: Path,
        threads: int,
        processor: Processor = Processor.CPU,
        *,
        context_length: int,
    ) -> None:
        """Begin to load a model; see `load_model`."""
        self._arguments = (folder, threads, processor, context_length)
        self._model: Model | OnnxSession | None = None
        self._error: Exception | None = None
        # The program waits for it before it ends: the library would end while it works.
        self._thread = threading.Thread(target=self._load)
        self._thread.start()

    def model(self) -> Model | OnnxSession:
        """Wait for the model.

        Raises:
            Exception: it does not load.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    def _load(self) -> None:
        try:
            self._model = load_model(*self._arguments)
        except Exception as error:
            self._error = error


def load_model(
    folder: Path, threads: int, processor: Processor, context_length: int
) -> Model | OnnxSession:
    """Load a model that answers, as this machine runs it.

    A model that is a single graph with a KV cache needs ONNX Runtime alone, on the CPU.

    Args:
        folder: holds genai_config.json and the graph.
        threads: number of ONNX Runtime threads; 0 for one a core.
        processor: processor that the model runs on.
        context_length: maximum length of prompt and answer together, tokens.

    Raises:
        RuntimeError: it does not load.
        EngineError: this runtime has no support for GPUs.
    """
    described = json.loads((folder / "genai_config.json").read_bytes())
    if processor is Processor.CPU and _is_plain(described, context_length):
        return _session(folder, described["model"]["decoder"], threads)
    decoder: dict[str, Any] = {"session_options": {"intra_op_num_threads": threads or cores()}}
    providers: list[str] | None = None
    if processor is not Processor.CPU:
        _register_gpu()
        providers = ["webgpu"]
    elif _is_for_webgpu(described):
        # A model that was given as ONNX: the CPU runs its graph as well.
        providers = []
    if processor is Processor.GPU_FP16:
        decoder["filename"] = HALF_GRAPH
    return Model(folder, {"decoder": decoder}, providers)


def load_speech_model(folder: Path, threads: int) -> Model:
    """Load the graphs of a speech model, on the CPU.

    Args:
        folder: holds genai_config.json and the graphs.
        threads: number of ONNX Runtime threads.

    Raises:
        RuntimeError: they do not load.
    """
    options = {"session_options": {"intra_op_num_threads": threads}}
    return Model(folder, {"encoder": options, "decoder": options}, None)


def _session(folder: Path, decoder: dict[str, Any], threads: int) -> OnnxSession:
    options = _options(decoder)
    return OnnxSession(
        folder / decoder["filename"],
        threads=threads or cores(),
        trace=options.get(_TRACE, ""),
        entries={name: str(value) for name, value in options.items() if _is_entry(name)},
    )


def _is_entry(option: str) -> bool:
    """Return whether an option of genai_config.json is one of ONNX Runtime's own strings."""
    return "." in option


def _is_plain(described: dict[str, Any], context_length: int) -> bool:
    """Return whether a model is a single graph that reads and writes a KV cache in place.

    Args:
        described: its genai_config.json.
        context_length: maximum length of prompt and answer together, tokens.
    """
    model = described["model"]
    decoder = model.get("decoder", {})
    names = {*decoder.get("inputs", {}), *decoder.get("outputs", {})}
    window = decoder.get("sliding_window") or {}
    return (
        bool(described.get("search", {}).get("past_present_share_buffer"))
        and not (model["type"].startswith("phi3") and context_length > LONG_ROPE_FROM)
        and not {"vision", "speech", "encoder", "embedding"} & set(model)
        and "pipeline" not in decoder
        and not (window.get("slide_key_value_cache") or window.get("slide_inputs"))
        and names <= _PLAIN_NAMES
        and not _providers(decoder)
        and all(_is_entry(name) or name in _PLAIN_OPTIONS for name in _options(decoder))
    )


def _is_for_webgpu(described: dict[str, Any]) -> bool:
    return "webgpu" in _providers(described["model"]["decoder"])


def _providers(decoder: dict[str, Any]) -> set[str]:
    options = _options(decoder).get("provider_options", [])
    return {name.lower() for provider in options for name in provider}


def _options(decoder: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = decoder.get("session_options", {})
    return options


@functools.cache  # ONNX Runtime refuses a second time
def _register_gpu() -> None:
    plug_in = gpu_library()
    if plug_in is None:
        raise EngineError("this runtime has no support for GPUs")
    library()
    # ONNX Runtime GenAI's own function for it ends the process if it fails. A process has one
    # environment of ONNX Runtime, which both share.
    api = onnx_api.load(_GPU_VERSION)
    name = c_char_p(b"WebGpuExecutionProvider")
    path = c_char_p(str(plug_in).encode())
    api.call(Function.REGISTER_LIBRARY, onnx_api.environment(api), name, path)
