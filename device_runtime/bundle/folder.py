"""A bundle as a folder of files: what a transfer in pieces leaves on the device.

The folder has the members of a bundle under their names: `manifest.json`, `manifest.sig`,
`sbom.cdx.json` and `blobs/sha256/<hex>`. Blobs whose content the device already has may be missing.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import DAMAGED, Blob
from device_runtime.bundle.release import CHUNK, plain_file
from device_runtime.bundle.source import Source
from device_runtime.durable import open_folder
from device_runtime.errors import BundleError


class BundleFolder(Source):
    """A folder with the members of a bundle; links in it are not followed.

    Attributes:
        folder: path of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = (schema.MANIFEST_NAME, schema.SIGNATURE_NAME, schema.SBOM_NAME)
        try:
            manifest_bytes, signature, sbom = (plain_file(folder, name) for name in names)
        except OSError as error:
            raise BundleError(
                f"{folder} is not a bundle: {error.strerror}", hint="Give the path of a .epk file."
            ) from None
        super().__init__(manifest_bytes=manifest_bytes, signature=signature, sbom=sbom)

    def chunks(self, blob: Blob) -> Iterator[bytes]:
        """Read the stored bytes of a blob; see `Source.chunks`."""
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(open_folder(self.folder))
                for name in schema.BLOB_PREFIX.strip("/").split("/"):
                    folder = stack.enter_context(folder.folder(name))
                file = stack.enter_context(folder.file(blob.sha256))
            except OSError as error:
                raise BundleError(
                    f"blob {blob.sha256} is missing: {error.strerror}", hint=DAMAGED
                ) from None
            left = blob.size
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise BundleError(f"blob {blob.sha256} is truncated", hint=DAMAGED)
                left -= len(chunk)
                yield chunk
