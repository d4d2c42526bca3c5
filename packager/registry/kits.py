"""Kits in OCI registries: pushed as an artifact with one layer, and imported from there."""

import tempfile
from functools import partial
from pathlib import Path

import msgspec

from device_runtime.bundle.manifest import Blob
from device_runtime.bundle.release import file_chunks
from device_runtime.errors import RegistryError
from device_runtime.update.registry.artifact import IMAGE_MANIFEST, Descriptor, ImageManifest
from device_runtime.update.registry.download import DAMAGED, download, resolve
from device_runtime.update.registry.reference import DIGEST, is_reference, parse
from packager import cache, console, kit
from packager.kit import Kit
from packager.registry.access import Access, connect
from packager.registry.layout import FILE_PATH, descriptor
from packager.registry.push import Pushed, empty_config, place, put, send

KIT = "application/vnd.edgepack.kit.v1"
LAYER = "application/vnd.edgepack.kit.v1.tar+zstd"
MAX_BYTES = 4 << 30
"""Longest layer that is downloaded."""


def push(pushed: Kit, destination: str, access: Access) -> Pushed:
    """Upload a kit to a registry; the same kit gives the same artifact.

    Args:
        pushed: the kit.
        destination: reference with a tag.
        access: options for the access to the registry.

    Raises:
        RegistryError: the reference is not valid, or the registry refuses the kit.
    """
    reference, tag = place(destination)
    name = pushed.facts.name
    cache.root().mkdir(parents=True, exist_ok=True)
    with (
        connect(reference, access) as registry,
        tempfile.TemporaryDirectory(dir=cache.root(), prefix=".push-") as folder,
    ):
        packed = Path(folder, kit.COMPRESSED)
        with console.step(f"Packaging {name}"), packed.open("wb") as file:
            kit.compress(pushed, file)
        layer = Descriptor(
            media_type=LAYER,
            digest=f"sha256:{cache.file_digest(packed)}",
            size=packed.stat().st_size,
            annotations={FILE_PATH: kit.COMPRESSED},
        )
        config, empty = empty_config()
        encoded = msgspec.json.encode(
            ImageManifest(
                schema_version=2,
                media_type=IMAGE_MANIFEST,
                artifact_type=KIT,
                config=config,
                layers=(layer,),
                annotations={
                    "org.opencontainers.image.title": name,
                    "org.opencontainers.image.version": pushed.description.edgepack,
                },
            )
        )
        with console.step(f"Pushing {name} to {reference}"):
            sent = send(registry, [(layer, partial(file_chunks, packed)), (config, empty)])
            put(registry, tag, IMAGE_MANIFEST, encoded)
    digest = descriptor(IMAGE_MANIFEST, encoded).digest
    return Pushed(reference=reference.at(digest), size=layer.size + config.size, sent=sent)


def take(source: str, access: Access) -> Kit:
    """Import a kit from a registry, or from a file.

    Args:
        source: reference, or path of what `kit export`, `kit package` or `kit push` wrote.
        access: options for the access to the registry.

    Raises:
        KitError: it is missing, damaged or not a kit.
        RegistryError: the registry does not have the kit, or sends something else.
    """
    if not is_reference(source):
        return kit.import_(Path(source))
    reference = parse(source)
    folder = cache.root() / "pulled"
    folder.mkdir(parents=True, exist_ok=True)
    with connect(reference, access) as registry, console.step(f"Pulling {reference}"):
        layer = _layer(*resolve(registry))
        blob = Blob(sha256=layer.digest.removeprefix("sha256:"), size=layer.size)
        path = folder / blob.sha256
        with cache.locked(folder / f".{blob.sha256}.lock"):
            path.touch()  # what an interrupted command has downloaded is used
            with path.open("r+b") as part, console.progress("Downloading", blob.size) as advance:
                whole = download(registry, blob, part, advance)
            try:
                if not whole:
                    raise RegistryError(
                        f"the registry sent other bytes than {layer.digest}", hint=DAMAGED
                    )
                return kit.import_(path)
            finally:
                path.unlink()


def _layer(data: bytes, digest: str) -> Descriptor:
    """Read the manifest of a kit; nothing in it is trusted."""
    hint = "Push the kit with: edgepack kit push NAME REFERENCE"
    try:
        manifest = msgspec.json.decode(data, type=ImageManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryError(
            f"the registry's manifest {digest} is not valid: {error}", hint=hint
        ) from None
    layers = [layer for layer in manifest.layers if layer.media_type == LAYER]
    if manifest.artifact_type != KIT or len(layers) != 1:
        raise RegistryError(f"{digest} in the registry is not a kit", hint=hint)
    (layer,) = layers
    if not DIGEST.fullmatch(layer.digest) or not 0 < layer.size <= MAX_BYTES:
        raise RegistryError(f"{digest} has a layer without a valid digest and size", hint=hint)
    return layer
