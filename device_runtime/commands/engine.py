"""The engine, as `generate`, `chat` and the worker of `serve` load it."""

from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle import requirements
from device_runtime.bundle.release import Release
from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import EngineError
from device_runtime.update.target import Target

if TYPE_CHECKING:
    from device_runtime.inference.genai_engine import GenAIEngine


def load_engine(release: Release, config: RuntimeConfig) -> "GenAIEngine":
    """Load a release's model.

    Args:
        release: release with the model.
        config: configuration, of which `threads` and `kv_cache_mib` apply.

    Raises:
        EngineError: the model does not load, or the processor lacks a feature.
    """
    kit = release.manifest.kit
    if kit is not None:
        # Before the import: on such a processor, it would end the program.
        unmet = requirements.processor(Target(Path("/")).processor, kit)
        if unmet is not None:
            raise EngineError(unmet.problem, hint=unmet.hint)
    from device_runtime.inference.genai_engine import GenAIEngine

    return GenAIEngine(
        release.model_folder,
        context_length=release.manifest.context_length,
        threads=config.threads,
        kv_cache_bytes=config.kv_cache_mib << 20,
    )
