"""Pull a bundle: the file that was pushed, byte for byte."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from device_runtime.durable import open_folder
from device_runtime.errors import RegistryError
from device_runtime.update.registry.download import RegistryBundle
from device_runtime.update.registry.reference import parse
from packager import bundle, cache, console
from packager.registry.access import Access, connect


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """The result of a pull.

    Attributes:
        path: the `.epk` file.
        reference: reference to the bundle by digest.
        release: digest of the bundle's manifest, hex.
    """

    path: Path
    reference: str
    release: str


def pull(origin: str, output: Path | None, access: Access) -> Pulled:
    """Download a bundle; what an interrupted command has downloaded is kept and used.

    Args:
        origin: reference with a tag or a digest.
        output: path of the file; None for ID-VERSION.epk in the working folder.
        access: options for the access to the registry.

    Raises:
        BundleError: the bundle is damaged.
        RegistryError: the registry does not have the bundle, or sends something else.
        ResourceError: the disk is too small.
    """
    if os.open not in os.supports_dir_fd:
        raise RegistryError(
            "bundles can be pulled on Linux and macOS only",
            hint="Pull it there; a device also installs from the registry itself.",
        )
    reference = parse(origin)
    with connect(reference, access) as registry, console.step(f"Pulling {reference}"):
        source = RegistryBundle(registry)
        manifest = source.manifest
        path = output or Path(f"{manifest.id}-{manifest.version}.epk")
        folder = cache.root() / "pulled" / source.digest
        folder.mkdir(parents=True, exist_ok=True)
        with open_folder(folder) as opened, source.stored_in(opened):
            blobs = manifest.blobs.values()
            with console.progress("Downloading", sum(blob.size for blob in blobs)) as advance:
                source.download(blobs, advance)
            bundle.copy(source, path)
            shutil.rmtree(folder)
    return Pulled(path=path, reference=reference.at(source.oci_digest), release=source.digest)
