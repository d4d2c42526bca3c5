"""The engine, as `generate`, `chat` and the worker of `serve` load it."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime import memory
from device_runtime.bundle import requirements
from device_runtime.bundle.embedding import HIDDEN_STATES
from device_runtime.bundle.release import Release
from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import EngineError, ResourceError
from device_runtime.inference.engine import no_memory
from device_runtime.inference.genai_library import Loading
from device_runtime.logs import event
from device_runtime.processor import Processor, cores, gpu_graphs, prefer_system_library
from device_runtime.update.target import Target

if TYPE_CHECKING:
    from device_runtime.inference.embedding import Embedder
    from device_runtime.inference.genai_engine import GenAIEngine
    from device_runtime.speech.transcription import Transcriber

log = logging.getLogger(__name__)


class EngineLoader:
    """A release's model, which begins to load at once, while the rest of it is imported."""

    def __init__(
        self, release: Release, config: RuntimeConfig, processor: Processor | None = None
    ) -> None:
        """Begin to load a release's model.

        Args:
            release: release with the model.
            config: configuration, of which `processor`, `threads`, `kv_cache_mib` and
                `state_folder` apply.
            processor: the only processor to try; None for a GPU that works if the configuration
                asks for one, else the CPU: comparing the two, as `auto` does, takes longer than an
                answer.

        Raises:
            EngineError: the processor lacks a feature.
        """
        _prepare(release)
        self._release = release
        self._config = config
        self._processors: tuple[Processor, ...] = (processor or Processor.CPU,)
        if processor is None and config.processor == "gpu":
            self._processors = (*gpu_graphs(release.model_folder), *self._processors)
        if 0 < (usable := cores()) < config.threads:
            event(log, logging.WARNING, "too_many_threads", threads=config.threads, usable=usable)
        self._loading = self._begin(self._processors[0])

    def engine(self) -> "GenAIEngine":
        """Wait for the engine.

        Raises:
            EngineError: the model does not load.
            ResourceError: memory is too short for it.
        """
        for candidate in self._processors[:-1]:
            try:
                return self._engine()
            except (EngineError, ResourceError) as error:
                event(log, logging.WARNING, "gpu_failed", processor=candidate, reason=error)
            place = self._processors.index(candidate) + 1
            self._loading = self._begin(self._processors[place])
        return self._engine()

    def _begin(self, processor: Processor) -> Loading:
        context_length = self._release.manifest.context_length
        folder, threads = self._release.model_folder, self._config.threads
        return Loading(folder, threads, processor, context_length=context_length)

    def _engine(self) -> "GenAIEngine":
        try:
            from device_runtime.inference.genai_engine import GenAIEngine
            from device_runtime.inference.prefix_file import PrefixFile
        except (ImportError, OSError, MemoryError) as error:
            if memory.is_short(error):
                raise no_memory(error) from None
            raise
        folder, threads = self._config.state_folder, self._config.threads
        return GenAIEngine(
            self._release.model_folder,
            context_length=self._release.manifest.context_length,
            threads=threads,
            kv_cache_bytes=self._config.kv_cache_mib << 20,
            loading=self._loading,
            prefix_file=PrefixFile(folder, model=self._release.digest, threads=threads)
            if folder is not None
            else None,
        )


def load_engine(
    release: Release, config: RuntimeConfig, processor: Processor | None = None
) -> "GenAIEngine":
    """Load a release's model: see `EngineLoader`.

    Raises:
        EngineError: the model does not load, or the processor lacks a feature.
        ResourceError: memory is too short for it.
    """
    return EngineLoader(release, config, processor).engine()


def embedder_of(
    release: Release, config: RuntimeConfig, engine: "GenAIEngine"
) -> "Embedder | None":
    """Return a release's embedding model, which is not loaded yet; None without one.

    Args:
        release: the release.
        config: configuration, of which `threads` applies.
        engine: the model that answers.
    """
    from device_runtime.inference.onnx_embedder import OnnxEmbedder

    described = release.manifest.embedding
    if described is None:
        return None
    if described.hidden_states:
        return engine.embedder(HIDDEN_STATES)
    return OnnxEmbedder(
        release.embedding_folder,
        dimensions=described.dimensions,
        vocabulary=described.vocabulary,
        max_tokens=described.max_tokens,
        memory_bytes=described.memory_bytes,
        threads=config.threads,
    )


def transcriber_of(release: Release, config: RuntimeConfig) -> "Transcriber | None":
    """Return a release's speech model, which is not loaded yet; None without one.

    Args:
        release: the release.
        config: configuration, of which `threads` applies.

    Raises:
        EngineError: the processor lacks a feature.
        ResourceError: memory is too short for the engine's library.
    """
    described = release.manifest.speech
    if described is None:
        return None
    _prepare(release)
    try:
        from device_runtime.speech.transcriber import WhisperTranscriber
    except (ImportError, OSError, MemoryError) as error:
        if memory.is_short(error):
            raise no_memory(error) from None
        raise
    return WhisperTranscriber(
        release.speech_folder, memory_bytes=described.memory_bytes, threads=config.threads
    )


def _prepare(release: Release) -> None:
    """Prepare this process for the engine's library, before it is imported."""
    _check_features(release)
    memory.return_large_blocks()
    prefer_system_library()
    # NumPy's own threads would take memory for nothing: ONNX Runtime does the large products.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _check_features(release: Release) -> None:
    """Check the features of the CPU: a library that needs another one would end the program."""
    kit = release.manifest.kit
    unmet = requirements.processor(Target(Path("/")).processor, kit) if kit is not None else None
    if unmet is not None:
        raise EngineError(unmet.problem, hint=unmet.hint)
