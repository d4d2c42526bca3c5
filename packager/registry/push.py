"""Push a bundle: its blobs, then what refers to it (signature, SBOM), and the tag last."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.reader import Bundle, open_bundle
from device_runtime.errors import RegistryError
from device_runtime.update.registry import artifact
from device_runtime.update.registry.artifact import IMAGE_MANIFEST, Descriptor, ImageManifest
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.reference import Reference, parse
from packager import console
from packager.registry.access import Access, connect
from packager.registry.layout import content_of, describe, descriptor
from packager.registry.upload import Content, exists, upload

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
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
        size: length of all that the artifact consists of, bytes.
        sent: length of what the repository did not have, bytes.
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
    reference, tag = place(destination)
    with connect(reference, access) as registry, open_bundle(path) as bundle:
        stored = sum(blob.size for blob in bundle.manifest.blobs.values())
        with console.progress("Verifying", stored) as advance:
            bundle.verify(advance)
        encoded, contents = describe(bundle)
        if len(encoded) > artifact.MAX_BYTES:
            raise RegistryError(
                f"{path} has too many files for a registry", hint="Build it with fewer files."
            )
        subject = descriptor(IMAGE_MANIFEST, encoded)
        with console.step(f"Pushing {path.name} to {reference}"):
            sent = send(registry, contents)
            _attach(registry, bundle, subject)
            put(registry, tag, IMAGE_MANIFEST, encoded)
    size = sum(blob.size for blob, _ in contents)
    return Pushed(reference=reference.at(subject.digest), size=size, sent=sent)


def place(destination: str) -> tuple[Reference, str]:
    """Read the reference of a place to push to, and its tag.

    Raises:
        RegistryError: it is not valid, or has no tag, or a digest.
    """
    reference = parse(destination)
    if reference.tag is None or reference.digest is not None:
        raise RegistryError(
            f"{destination}: the digest follows from the content",
            hint="Push to a tag: oci://HOST[:PORT]/REPOSITORY:TAG",
        )
    return reference, reference.tag


def send(registry: Registry, contents: Iterable[tuple[Descriptor, Content]]) -> int:
    """Upload the blobs that the repository does not have; return their length, bytes.

    Raises:
        RegistryError: the registry refuses a blob, or there were too many failures.
    """
    missing = [(blob, content) for blob, content in contents if not exists(registry, blob.digest)]
    sent = sum(blob.size for blob, _ in missing)
    with console.progress("Uploading", sent) as advance:
        for blob, content in missing:
            upload(registry, blob.digest, blob.size, content, advance)
    return sent


def _attach(registry: Registry, bundle: Bundle, subject: Descriptor) -> None:
    """Push the signature and the SBOM as artifacts that refer to the bundle, for other tools."""
    empty, content = empty_config()
    if not exists(registry, empty.digest):
        upload(registry, empty.digest, empty.size, content, lambda _: None)
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
                layers=(descriptor(kind, data, name),),
                subject=subject,
            )
        )
        referrer = msgspec.structs.replace(descriptor(IMAGE_MANIFEST, encoded), artifact_type=kind)
        listed = put(registry, referrer.digest, IMAGE_MANIFEST, encoded)
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
        put(registry, tag, IMAGE_INDEX, msgspec.json.encode(index))


def empty_config() -> tuple[Descriptor, Content]:
    """Return the config of an artifact that needs none, as the OCI image specification has it."""
    return descriptor("application/vnd.oci.empty.v1+json", EMPTY), content_of(EMPTY)


def put(registry: Registry, name: str, kind: str, data: bytes) -> bool:
    """Push a manifest; return whether the registry lists it as a referrer by itself."""
    _, headers, _ = registry.insist(
        "PUT",
        f"manifests/{name}",
        expected=(201,),
        headers={"Content-Type": kind, "Content-Length": str(len(data))},
        body=data,
    )
    return "OCI-Subject" in headers
