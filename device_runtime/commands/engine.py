"""The engine, as `generate`, `chat` and the worker of `serve` load it."""

from typing import TYPE_CHECKING

from device_runtime.bundle.release import Release
from device_runtime.config.options import RuntimeConfig

if TYPE_CHECKING:
    from device_runtime.inference.genai_engine import GenAIEngine


def load_engine(release: Release, config: RuntimeConfig) -> "GenAIEngine":
    """Load a release's model.

    Args:
        release: release with the model.
        config: configuration, of which `threads` and `kv_cache_mib` apply.

    Raises:
        EngineError: the model does not load.
    """
    from device_runtime.inference.genai_engine import GenAIEngine

    return GenAIEngine(
        release.model_folder,
        context_length=release.manifest.context_length,
        threads=config.threads,
        kv_cache_bytes=config.kv_cache_mib << 20,
    )
