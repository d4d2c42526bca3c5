"""A bundle as an artifact in a registry: an OCI image manifest with the types of CNCF ModelPack.

Each blob of a bundle is a layer, so that a registry stores blobs that bundles share once. Beside
them are layers for `manifest.json`, `manifest.sig` (of a signed bundle) and `sbom.cdx.json`. The
format marker follows from the manifest, and empty blobs are left out: not every registry takes
them. The config is that of a model. The sources are the OCI image specification 1.1
(manifest.md) and the model specification of CNCF ModelPack (spec.md, config.md, annotations.md).
"""

from dataclasses import dataclass

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob, Manifest
from device_runtime.bundle.release import MAX_SBOM_BYTES
from device_runtime.bundle.source import MAX_SIGNATURE_BYTES
from device_runtime.errors import RegistryError
from device_runtime.update.registry.reference import DIGEST

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
BUNDLE_MANIFEST = "application/vnd.edgepack.manifest+json"
SIGNATURE = "application/vnd.dsse.envelope.v1+json"
SBOM = "application/vnd.cyclonedx+json"

MAX_BYTES = 4 << 20
"""Longest OCI manifest: registries and clients support this much."""
MAX_LAYERS = schema.MAX_RECORDS + 8
NOT_A_BUNDLE = "Push the bundle with edgepack push; check the tag or the digest."


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A reference to a blob or a manifest, by its content.

    Attributes:
        media_type: type of the content.
        artifact_type: type of the artifact, if it is a manifest.
        digest: `sha256:` and the digest of the content.
        size: length of the content, bytes.
        annotations: texts about it.
    """

    media_type: str
    artifact_type: str = ""
    digest: str
    size: int
    annotations: dict[str, str] = {}


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The manifest of an artifact.

    Attributes:
        schema_version: 2.
        media_type: `IMAGE_MANIFEST`.
        artifact_type: type of the artifact.
        config: description of the artifact.
        layers: its content.
        subject: the manifest that this one says something about; None for one of its own.
        annotations: texts about it.
    """

    schema_version: int
    media_type: str
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A bundle in a registry, as its OCI manifest lists it.

    Attributes:
        digest: `sha256:` and the digest of the OCI manifest.
        manifest: layer of `manifest.json`.
        signature: layer of `manifest.sig`; None if the bundle is not signed.
        sbom: layer of `sbom.cdx.json`.
        layers: size by digest of all layers.
    """

    digest: str
    manifest: Descriptor
    signature: Descriptor | None
    sbom: Descriptor
    layers: dict[str, int]

    def check_blobs(self, manifest: Manifest) -> None:
        """Check that all blobs of the bundle's manifest are layers of the same size.

        Raises:
            RegistryError: some are not.
        """
        for blob in manifest.blobs.values():
            if blob.size and self.layers.get(layer_digest(blob)) != blob.size:
                raise RegistryError(
                    f"the registry's manifest {self.digest} does not list blob {blob.sha256}",
                    hint=NOT_A_BUNDLE,
                )


def layer_digest(blob: Blob) -> str:
    """Return the digest of a blob as registries write it."""
    return f"sha256:{blob.sha256}"


def read(data: bytes, digest: str) -> Artifact:
    """Read an OCI manifest from a registry; nothing in it is trusted.

    Args:
        data: the manifest, its digest checked.
        digest: `sha256:` and the digest.

    Raises:
        RegistryError: it is not valid, or not that of a bundle.
    """
    try:
        manifest = msgspec.json.decode(data, type=ImageManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryError(
            f"the registry's manifest {digest} is not valid: {error}", hint=NOT_A_BUNDLE
        ) from None
    if manifest.media_type != IMAGE_MANIFEST or manifest.artifact_type != MODEL_MANIFEST:
        raise RegistryError(f"{digest} in the registry is not a bundle", hint=NOT_A_BUNDLE)
    if len(manifest.layers) > MAX_LAYERS:
        raise RegistryError(f"{digest} has more than {MAX_LAYERS} layers", hint=NOT_A_BUNDLE)
    for layer in manifest.layers:
        if not DIGEST.fullmatch(layer.digest) or layer.size < 0:
            raise RegistryError(
                f"{digest} has a layer without a valid digest and size", hint=NOT_A_BUNDLE
            )
    parts = [
        _only(manifest, kind, limit)
        for kind, limit in (
            (BUNDLE_MANIFEST, schema.MAX_MANIFEST_BYTES),
            (SIGNATURE, MAX_SIGNATURE_BYTES),
            (SBOM, MAX_SBOM_BYTES),
        )
    ]
    head, signature, sbom = parts
    if head is None or sbom is None:
        raise RegistryError(
            f"{digest} in the registry is a model without the manifest of a bundle",
            hint=NOT_A_BUNDLE,
        )
    return Artifact(
        digest=digest,
        manifest=head,
        signature=signature,
        sbom=sbom,
        layers={layer.digest: layer.size for layer in manifest.layers},
    )


def _only(manifest: ImageManifest, kind: str, limit: int) -> Descriptor | None:
    """Return the layer of a type; None if there is none."""
    layers = [layer for layer in manifest.layers if layer.media_type == kind]
    if len(layers) > 1 or any(layer.size > limit for layer in layers):
        raise RegistryError(
            f"the registry's manifest has several or too large layers of type {kind}",
            hint=NOT_A_BUNDLE,
        )
    return layers[0] if layers else None
