"""Search for text models on the hub, most downloaded first."""

from collections.abc import Container
from dataclasses import dataclass

import msgspec

from packager.models import hub_api
from packager.models.catalog import ARCHITECTURES, GGUF_ARCHITECTURES
from packager.models.folder import spdx

MOST = 100
"""Models in one answer of the hub."""


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model that a search found.

    Attributes:
        id: id for `--model`.
        parameters: number of weights; 0 if the hub does not know.
        license: SPDX expression, or the hub's name of the license; empty if unknown.
        downloads: number of downloads in 30 days.
        gated: the hub asks for a token of an account that has accepted the license.
        gguf: the weights are GGUF files.
        architecture: name of the architecture, as in the source; empty if unknown.
        supported: edgepack builds the architecture; None if it is unknown.
    """

    id: str
    parameters: int
    license: str
    downloads: int
    gated: bool
    gguf: bool
    architecture: str
    supported: bool | None


class _Weights(msgspec.Struct, frozen=True):
    total: int = 0
    architecture: str = ""


class _Config(msgspec.Struct, frozen=True):
    architectures: tuple[str, ...] = ()


class _Entry(msgspec.Struct, frozen=True):
    id: str
    downloads: int = 0
    tags: tuple[str, ...] = ()
    gated: bool | str = False
    safetensors: _Weights | None = None
    gguf: _Weights | None = None
    config: _Config | None = None


def search(text: str, limit: int) -> list[HubModel]:
    """Find text models with safetensors or GGUF files.

    Args:
        text: part of the id.
        limit: number of models, up to `MOST`.

    Raises:
        ModelSourceError: the hub cannot be reached, or refuses the request.
    """
    query = {
        "search": text,
        "pipeline_tag": "text-generation",
        "sort": "downloads",
        "limit": MOST,
        "expand": ["downloads", "tags", "gated", "safetensors", "gguf", "config"],
    }
    with hub_api.explained(f"searching for {text!r}"):
        entries = hub_api.get("models", query, tuple[_Entry, ...])
    models = [model for model in map(_model, entries) if model is not None]
    return models[:limit]


def _model(entry: _Entry) -> HubModel | None:
    """Return what an entry tells; None if it has no weights in a supported format."""
    known: Container[str] = ARCHITECTURES
    if entry.safetensors is not None:
        weights = entry.safetensors
        architectures = entry.config.architectures if entry.config is not None else ()
        architecture = next(iter(architectures), "")
    elif entry.gguf is not None:
        weights, architecture, known = entry.gguf, entry.gguf.architecture, GGUF_ARCHITECTURES
    else:
        return None
    licenses = [tag.removeprefix("license:") for tag in entry.tags if tag.startswith("license:")]
    return HubModel(
        id=entry.id,
        parameters=weights.total,
        license=spdx(next((name for name in licenses if name != "other"), "")),
        downloads=entry.downloads,
        gated=bool(entry.gated),
        gguf=entry.safetensors is None,
        architecture=architecture,
        supported=architecture in known if architecture else None,
    )
