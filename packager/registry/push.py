"""Push a bundle: its blobs, then what refers to it (signature, SBOM), and the tag last."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Manifest, Record
from device_runtime.bundle.reader import Bundle, open_bundle
from device_runtime.errors import RegistryError
from device_runtime.update.registry import artifact
from device_runtime.update.registry.artifact import (
    IMAGE_MANIFEST,
    MODEL_MANIFEST,
    Descriptor,
    ImageManifest,
)
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.reference import parse
from packager import console
from packager.registry.access import Access, connect
from packager.registry.upload import Content, exists, upload

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
FILE_PATH = "org.cncf.model.filepath"
EMPTY = b"{}"


class _Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An OCI image index: here, the list of what refers to an artifact."""

    schema_version: int = 2
    media_type: str = IMAGE_INDEX
    manifests: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of a push.

    Attributes:
        reference: reference to the bundle by digest.
        size: length of all blobs, bytes.
        sent: length of the blobs that the registry did not have, bytes.
    """

    reference: str
    size: int
    sent: int


def push(path: Path, destination: str, access: Access) -> Pushed:
    """Upload a bundle to a registry; blobs that the repository has are not sent.

    Args:
        path: the `.epk` file.
        destination: reference with a tag.
        access: options for the access to the registry.

    Raises:
        BundleError: the bundle is damaged.
        RegistryError: the reference is not valid, or the registry refuses the bundle.
    """
    reference = parse(destination)
    if reference.tag is None or reference.digest is not None:
        raise RegistryError(
            f"{destination}: the digest of a bundle follows from its content",
            hint="Push to a tag: oci://HOST[:PORT]/REPOSITORY:TAG",
        )
    with connect(reference, access) as registry, open_bundle(path) as bundle:
        size = sum(blob.size for blob in bundle.manifest.blobs.values())
        with console.progress("Verifying", size) as advance:
            bundle.verify(advance)
        contents = {
            descriptor.digest: (descriptor, content) for descriptor, content in _layers(bundle)
        }
        config = _config(bundle.manifest)
        about = _descriptor(MODEL_CONFIG, config)
        contents[about.digest] = (about, _bytes(config))
        encoded = msgspec.json.encode(
            ImageManifest(
                schema_version=2,
                media_type=IMAGE_MANIFEST,
                artifact_type=MODEL_MANIFEST,
                config=about,
                layers=tuple(layer for layer, _ in _layers(bundle)),
                annotations={
                    "org.opencontainers.image.title": bundle.manifest.id,
                    "org.opencontainers.image.version": bundle.manifest.version,
                },
            )
        )
        if len(encoded) > artifact.MAX_BYTES:
            raise RegistryError(
                f"{path} has too many files for a registry", hint="Build it with fewer files."
            )
        subject = _descriptor(IMAGE_MANIFEST, encoded)
        with console.step(f"Pushing {path.name} to {reference}"):
            missing = [pair for digest, pair in contents.items() if not exists(registry, digest)]
            sent = sum(descriptor.size for descriptor, _ in missing)
            with console.progress("Uploading", sent) as advance:
                for descriptor, content in missing:
                    upload(registry, descriptor.digest, descriptor.size, content, advance)
            _attach(registry, bundle, subject)
            _put(registry, reference.tag, IMAGE_MANIFEST, encoded)
    return Pushed(reference=reference.at(subject.digest), size=size, sent=sent)


def _layers(bundle: Bundle) -> Iterator[tuple[Descriptor, Content]]:
    """List the layers of a bundle, and their contents; empty ones are left out."""
    for name, kind, data in (
        (schema.MANIFEST_NAME, artifact.BUNDLE_MANIFEST, bundle.manifest_bytes),
        (schema.SIGNATURE_NAME, artifact.SIGNATURE, bundle.signature),
        (schema.SBOM_NAME, artifact.SBOM, bundle.sbom),
    ):
        if data:
            yield _descriptor(kind, data, name), _bytes(data)
    first = {r.blob.sha256: r for r in reversed(bundle.manifest.records) if r.blob is not None}
    for digest, blob in bundle.manifest.blobs.items():
        if blob.size:
            layer = Descriptor(
                media_type=_layer_type(first[digest]),
                digest=artifact.layer_digest(blob),
                size=blob.size,
                annotations={FILE_PATH: first[digest].path},
            )
            yield layer, lambda blob=blob: bundle.chunks(blob)  # type: ignore[misc]


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


def _attach(registry: Registry, bundle: Bundle, subject: Descriptor) -> None:
    """Push the signature and the SBOM as artifacts that refer to the bundle, for other tools."""
    empty = _descriptor("application/vnd.oci.empty.v1+json", EMPTY)
    if not exists(registry, empty.digest):
        upload(registry, empty.digest, empty.size, _bytes(EMPTY), lambda _: None)
    for name, kind, data in (
        (schema.SIGNATURE_NAME, artifact.SIGNATURE, bundle.signature),
        (schema.SBOM_NAME, artifact.SBOM, bundle.sbom),
    ):
        if not data:
            continue
        encoded = msgspec.json.encode(
            ImageManifest(
                schema_version=2,
                media_type=IMAGE_MANIFEST,
                artifact_type=kind,
                config=empty,
                layers=(_descriptor(kind, data, name),),
                subject=subject,
            )
        )
        referrer = msgspec.structs.replace(_descriptor(IMAGE_MANIFEST, encoded), artifact_type=kind)
        listed = _put(registry, referrer.digest, IMAGE_MANIFEST, encoded)
        if not listed:
            _list_referrer(registry, subject, referrer)


def _list_referrer(registry: Registry, subject: Descriptor, referrer: Descriptor) -> None:
    """Add a referrer to the list that a registry without the referrers API keeps under a tag.

    The source is "Referrers Tag Schema" of the OCI distribution specification 1.1.
    """
    tag = subject.digest.replace(":", "-")
    status, _, data = registry.insist(
        "GET",
        f"manifests/{tag}",
        expected=(200, 404),
        limit=artifact.MAX_BYTES,
        headers={"Accept": IMAGE_INDEX},
    )
    index = _Index()
    if status == 200:
        try:
            index = msgspec.json.decode(data, type=_Index)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RegistryError(
                f"the list of referrers under the tag {tag} is not valid: {error}",
                hint="Remove the tag from the registry, and push again.",
            ) from None
    if referrer.digest not in {listed.digest for listed in index.manifests}:
        index = _Index(manifests=(*index.manifests, referrer))
        _put(registry, tag, IMAGE_INDEX, msgspec.json.encode(index))


def _put(registry: Registry, name: str, kind: str, data: bytes) -> bool:
    """Push a manifest; return whether the registry lists it as a referrer by itself."""
    _, headers, _ = registry.insist(
        "PUT",
        f"manifests/{name}",
        expected=(201,),
        headers={"Content-Type": kind, "Content-Length": str(len(data))},
        body=data,
    )
    return "OCI-Subject" in headers


def _descriptor(kind: str, data: bytes, name: str = "") -> Descriptor:
    return Descriptor(
        media_type=kind,
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        size=len(data),
        annotations={FILE_PATH: name} if name else {},
    )


def _bytes(data: bytes) -> Content:
    return lambda: iter((data,))
