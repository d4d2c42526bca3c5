"""The source of a model that stands beside the one that answers: a Hugging Face folder as it is."""

from collections.abc import Sequence
from pathlib import Path

from packager import cache
from packager.models import stored_weights
from packager.models.folder import hf_files, readme_license
from packager.models.source import ModelSource
from packager.weights import checkpoint, safetensors_file


def folder_source(
    folder: Path,
    name: str,
    origin: str,
    architecture: str,
    *,
    license: str = "",
    parts: Sequence[Path] = (),
) -> ModelSource:
    """Describe the model in a folder whose configuration was checked.

    Args:
        folder: the folder.
        name: name of the model.
        origin: origin of the model, without a path of the host.
        architecture: its architecture, as config.json names it.
        license: SPDX expression; empty for the one that its README names.
        parts: folders below it with more weights.

    Raises:
        ModelSourceError: weights are missing, or cannot be read.
    """
    for part in (folder, *parts):
        stored_weights.check(part, quantized=False)
    digests = {str(path.relative_to(folder)): cache.file_digest(path) for path in hf_files(folder)}
    weights = (
        safetensors_file.tensors(path)
        for part in (folder, *parts)
        for path in checkpoint.files(part)
    )
    return ModelSource(
        kind="hf",
        name=name,
        origin=origin,
        path=folder,
        digest=cache.key(digests),
        architecture=architecture,
        license=license or readme_license(folder / "README.md"),
        parameters=sum(tensor.elements for file in weights for tensor in file.values()),
    )
