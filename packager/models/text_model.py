"""The text model of a Hugging Face folder: the whole model, or the part of it that writes.

Everything that reads a configuration or counts weights before the folder is converted does so here.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packager.errors import ModelSourceError
from packager.jobs.extract_text import text_name
from packager.models.catalog import WITH_TEXT_MODEL
from packager.weights import checkpoint, safetensors_file
from packager.weights.safetensors_file import Tensor

_OF_THE_WHOLE = (".safetensors", ".safetensors.index.json", "processor_config.json", ".py")


def unchanged(files: Iterable[Path]) -> tuple[Path, ...]:
    """Choose the files of a Hugging Face folder that its text model takes as they are."""
    return tuple(
        path
        for path in files
        if path.name != "config.json" and not path.name.endswith(_OF_THE_WHOLE)
    )


def text_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a folder's text model.

    Raises:
        ModelSourceError: config.json is missing or not a JSON object.
    """
    config = json_object(folder / "config.json")
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def json_object(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        ModelSourceError: the file is missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(
            f"{path} cannot be read: {error}", hint="Download the model again."
        ) from None
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} is not a JSON object", hint="Download the model again.")
    return value


def tensors(folder: Path, architecture: str) -> Iterator[tuple[Tensor, bool]]:
    """Read the headers of a folder's safetensors files.

    Args:
        folder: Hugging Face folder.
        architecture: its architecture.

    Yields:
        Each tensor, and True if it belongs to the text model.

    Raises:
        ModelSourceError: a file is damaged.
    """
    whole = architecture not in WITH_TEXT_MODEL
    for path in checkpoint.files(folder):
        try:
            for name, tensor in safetensors_file.tensors(path).items():
                yield tensor, whole or text_name(name) is not None
        except ValueError as error:
            raise ModelSourceError(f"{path} {error}", hint="Download the file again.") from None
