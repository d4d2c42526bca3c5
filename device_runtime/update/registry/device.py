"""A bundle in a registry, for an installation: only what the device lacks is downloaded."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from device_runtime.bundle.manifest import Blob, Manifest
from device_runtime.bundle.release import OnBytes, disk_error
from device_runtime.bundle.source import Source
from device_runtime.update.links import STATE
from device_runtime.update.preflight import (
    Policy,
    check_signature,
    check_target,
    check_update,
)
from device_runtime.update.registry import credentials
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.download import RegistryBundle
from device_runtime.update.registry.reference import parse
from device_runtime.update.registry.transport import Transport
from device_runtime.update.releases import INCOMING, Releases
from device_runtime.update.target import Target


@contextmanager
def downloaded(
    text: str,
    root: Path,
    policy: Policy,
    *,
    ca_file: Path | None,
    plain_http: bool,
    note: Callable[[str], None],
    progress: Callable[[int], AbstractContextManager[OnBytes]],
) -> Iterator[Source]:
    """Download a bundle for an installation that the block does.

    Blobs are kept in `/var/lib/edgepack/incoming/<release>` until the block has succeeded. A file
    of another release that turns out to be damaged is downloaded when the installation reads it.

    Args:
        text: reference to the bundle.
        root: root file system to install into; its credentials are used.
        policy: permissions for the installation.
        ca_file: certificates to trust besides the system's, PEM.
        plain_http: whether to use plain HTTP with the registry.
        note: called with a line for the user before each retry.
        progress: called with the number of bytes to download.

    Raises:
        BundleError: the bundle is not valid.
        InstallError: the bundle does not fit the target, or is not signed by keys that it trusts.
        RegistryError: the registry does not have the bundle, or sends something else.
        ResourceError: too little space, or the target cannot be written to.
    """
    reference = parse(text)
    target = Target(root)
    transport = Transport(
        ca_file=ca_file, plain=frozenset([reference.host]) if plain_http else frozenset()
    )
    login = credentials.of_device(target, reference.registry)
    with Registry(reference, transport, credentials=login, note=note) as registry:
        source = RegistryBundle(registry)
        try:
            check_target(source, target, policy)
            check_signature(source, target, policy)
            check_update(source, target, policy)
            place = f"{STATE}/{INCOMING}/{source.digest}"
            with target.folder(place, make=True) as folder, source.stored_in(folder):
                blobs = _missing(source.manifest, target, source.digest)
                with progress(sum(blob.size for blob in blobs)) as on_bytes:
                    source.download(blobs, on_bytes)
                yield source
            with target.folder(f"{STATE}/{INCOMING}") as incoming:
                incoming.remove(source.digest)
        except OSError as error:
            raise disk_error(error, root) from None


def _missing(manifest: Manifest, target: Target, digest: str) -> list[Blob]:
    """List the blobs whose content no installed release has; none if the release is installed."""
    with target.folder(STATE) as state:
        releases = Releases(target, state)
        if releases.open(digest) is not None:
            return []
        # The blob of a record that is not shared is needed, whatever other records have it.
        records = [record for record in manifest.records if releases.shared(record) is None]
        return list({r.blob.sha256: r.blob for r in records if r.blob is not None}.values())
