"""A bundle as an OCI artifact: its manifest, its config and its layers.

`device_runtime.update.registry.artifact` has the sources, and reads what is written here.
"""

import hashlib
from collections.abc import Iterator
from functools import partial

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Manifest, Record
from device_runtime.bundle.reader import Bundle
from device_runtime.update.registry import artifact
from device_runtime.update.registry.artifact import (
    IMAGE_MANIFEST,
    MODEL_MANIFEST,
    Descriptor,
    ImageManifest,
)
from packager.registry.upload import Content

MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
FILE_PATH = "org.cncf.model.filepath"


def describe(bundle: Bundle) -> tuple[bytes, list[tuple[Descriptor, Content]]]:
    """Describe a bundle; the same bundle gives the same bytes.

    Returns:
        The OCI manifest, and the blobs that it refers to.
    """
    layers = list(_layers(bundle))
    config = _config(bundle.manifest)
    about = descriptor(MODEL_CONFIG, config)
    manifest = ImageManifest(
        schema_version=2,
        media_type=IMAGE_MANIFEST,
        artifact_type=MODEL_MANIFEST,
        config=about,
        layers=tuple(layer for layer, _ in layers),
        annotations={
            "org.opencontainers.image.title": bundle.manifest.id,
            "org.opencontainers.image.version": bundle.manifest.version,
        },
    )
    return msgspec.json.encode(manifest), [*layers, (about, content_of(config))]


def descriptor(kind: str, data: bytes, name: str = "") -> Descriptor:
    """Create the descriptor of some bytes.

    Args:
        kind: media type.
        data: the bytes.
        name: name of the file that they are; empty for none.
    """
    return Descriptor(
        media_type=kind,
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        size=len(data),
        annotations={FILE_PATH: name} if name else {},
    )


def content_of(data: bytes) -> Content:
    """Return some bytes as the content of a blob."""
    return partial(iter, (data,))


def _layers(bundle: Bundle) -> Iterator[tuple[Descriptor, Content]]:
    """List the layers of a bundle, and their contents; empty ones are left out."""
    for name, kind, data in (
        (schema.MANIFEST_NAME, artifact.BUNDLE_MANIFEST, bundle.manifest_bytes),
        (schema.SIGNATURE_NAME, artifact.SIGNATURE, bundle.signature),
        (schema.SBOM_NAME, artifact.SBOM, bundle.sbom),
    ):
        if data:
            yield descriptor(kind, data, name), content_of(data)
    first = {r.blob.sha256: r for r in reversed(bundle.manifest.records) if r.blob is not None}
    for digest, blob in bundle.manifest.blobs.items():
        if blob.size:
            layer = Descriptor(
                media_type=_layer_type(first[digest]),
                digest=artifact.layer_digest(blob),
                size=blob.size,
                annotations={FILE_PATH: first[digest].path},
            )
            yield layer, partial(bundle.chunks, blob)


def _layer_type(record: Record) -> str:
    """Return the type of ModelPack for a file.

    It has none for a single compressed file: `+zstd` is the suffix that it has for archives.
    """
    if record.component == "runtime":
        kind = "code"
    elif record.path.endswith((".onnx", ".data")):
        kind = "weight"
    else:
        kind = "weight.config"
    assert record.blob is not None
    suffix = "+zstd" if record.blob.compression == "zstd" else ""
    return f"application/vnd.cncf.model.{kind}.v1.raw{suffix}"


def _config(manifest: Manifest) -> bytes:
    """Describe the model as ModelPack does; the same manifest gives the same bytes."""
    model = manifest.model
    described = {"name": model.name, "version": manifest.version, "title": manifest.id}
    contents = {r.blob.sha256: r.sha256 for r in manifest.records if r.blob and r.blob.size}
    return msgspec.json.encode(
        {
            "descriptor": described | ({"licenses": [model.license]} if model.license else {}),
            "config": {
                "architecture": model.architecture,
                "format": "onnx",
                "precision": manifest.quantization.precision,
                "quantization": manifest.quantization.recipe,
            }
            | ({"paramSize": _count(model.parameters)} if model.parameters else {}),
            "modelfs": {
                "type": "layers",
                "diffIds": [
                    f"sha256:{contents[name]}" for name in manifest.blobs if name in contents
                ],
            },
        }
    )


def _count(parameters: int) -> str:
    """Write a number of parameters as ModelPack does: `134.5M`."""
    for prefix, scale in (("B", 10**9), ("M", 10**6)):
        if parameters >= scale:
            return f"{parameters / scale:.1f}{prefix}"
    return f"{parameters / 1000:.1f}K"
