"""A bundle in a registry as a source of a release: its blobs are downloaded into a folder.

A blob is written to `blobs/sha256/<hex>.part` and gets its name when its digest matched. What an
interruption or a power cut leaves is resumed: the part that is there is hashed, and the rest
requested by range.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob
from device_runtime.bundle.release import CHUNK, OnBytes
from device_runtime.bundle.source import Source
from device_runtime.durable import Folder
from device_runtime.errors import RegistryError, ResourceError
from device_runtime.update.registry import artifact
from device_runtime.update.registry.artifact import Descriptor, layer_digest
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.transport import TransientError

PART = ".part"
LOCK = ".lock"
PROGRESS = 1 << 20
"""Bytes after which a connection counts as one that worked, so that its loss is forgiven."""

DAMAGED = "Run the same command again; if it fails again, push the bundle again."


class RegistryBundle(Source):
    """A bundle in a registry.

    Attributes:
        oci_digest: `sha256:` and the digest of its OCI manifest.
    """

    def __init__(self, registry: Registry) -> None:
        """Download all of the bundle but its blobs, and check it.

        Args:
            registry: the place of the bundle.

        Raises:
            RegistryError: the registry does not have the bundle, or sends something else.
            BundleError: the bundle is not valid.
        """
        self._registry = registry
        listed = artifact.read(*resolve(registry))
        super().__init__(
            manifest_bytes=self._small(listed.manifest),
            signature=self._small(listed.signature),
            sbom=self._small(listed.sbom),
        )
        listed.check_blobs(self.manifest)
        self.oci_digest = listed.digest
        self._store: Folder | None = None

    @contextmanager
    def stored_in(self, folder: Folder) -> Iterator[None]:
        """Keep blobs in a folder while a block runs, and what is there of an earlier time.

        Raises:
            RegistryError: another program downloads into the folder.
        """
        first, second = schema.BLOB_PREFIX.strip("/").split("/")
        with (
            _alone(folder),
            folder.folder(first, make=True) as around,
            around.folder(second, make=True) as self._store,
        ):
            yield

    def download(self, blobs: Iterable[Blob], on_bytes: OnBytes) -> None:
        """Download blobs that the folder does not have yet.

        Args:
            blobs: blobs of the manifest.
            on_bytes: called with the size of each chunk that is stored, or was stored earlier;
                negative for chunks that were damaged.

        Raises:
            RegistryError: the registry does not have a blob, or sends other bytes.
            ResourceError: the disk is too small.
        """
        store = self._folder
        missing = []
        for blob in blobs:
            if _intact(store, blob):
                on_bytes(blob.size)
            else:
                missing.append(blob)
        _check_space(store, missing)
        for blob in missing:
            part = blob.sha256 + PART
            # What was there before a power cut may be damaged: then once more, from the beginning.
            for last in (False, True):
                with store.file(part, make=True) as file:
                    whole = download(self._registry, blob, file, on_bytes)
                if whole:
                    store.rename(part, blob.sha256)
                    break
                store.remove(part)
                on_bytes(-blob.size)
                if last:
                    raise RegistryError(
                        f"the registry sent other bytes than {layer_digest(blob)}", hint=DAMAGED
                    )

    def chunks(self, blob: Blob) -> Iterator[bytes]:
        """Read the stored bytes of a blob, which is downloaded now if it is not in the folder."""
        if self._folder.stat(blob.sha256) is None:
            self.download([blob], lambda _: None)
        with self._folder.file(blob.sha256) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    @property
    def _folder(self) -> Folder:
        if self._store is None:
            raise ValueError("blobs are read within `stored_in`")
        return self._store

    def _small(self, layer: Descriptor | None) -> bytes:
        """Download a layer beside the blobs; empty if there is none."""
        if layer is None:
            return b""
        _, _, data = self._registry.insist(
            "GET", f"blobs/{layer.digest}", expected=(200,), limit=layer.size
        )
        if len(data) != layer.size or _digest(data) != layer.digest:
            raise RegistryError(f"the registry sent other bytes than {layer.digest}", hint=DAMAGED)
        return data


def resolve(registry: Registry) -> tuple[bytes, str]:
    """Read the OCI manifest that the reference names; return it and its digest.

    Raises:
        RegistryError: it is missing, or has another digest than the reference.
    """
    reference = registry.reference
    _, _, data = registry.insist(
        "GET",
        f"manifests/{reference.digest or reference.tag}",
        expected=(200,),
        limit=artifact.MAX_BYTES,
        headers={"Accept": artifact.IMAGE_MANIFEST},
    )
    if reference.digest not in (None, _digest(data)):
        raise RegistryError(
            f"the registry sent a manifest with the digest {_digest(data)} instead of "
            f"{reference.digest}",
            hint="Do not use this registry until its operator knows why.",
        )
    return data, _digest(data)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Hold the lock that allows one download into a folder at a time.

    Raises:
        RegistryError: another program holds it.
    """
    import fcntl  # Windows lacks it, where the host imports this module

    with folder.file(LOCK, make=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegistryError(
                "another program is downloading this bundle", hint="Wait for it to end."
            ) from None
        yield


def _intact(store: Folder, blob: Blob) -> bool:
    if store.stat(blob.sha256) is None:
        return False
    hasher = hashlib.sha256()
    with store.file(blob.sha256) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest() == blob.sha256


def _check_space(store: Folder, blobs: Iterable[Blob]) -> None:
    needed = 0
    for blob in blobs:
        part = store.stat(blob.sha256 + PART)
        needed += blob.size - (min(part.st_size, blob.size) if part is not None else 0)
    disk = os.statvfs(store.descriptor)
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        raise ResourceError(
            f"{store.path} has {free >> 20} MiB free; the download needs {needed >> 20} MiB",
            hint="Free some space there.",
        )


def download(registry: Registry, blob: Blob, part: IO[bytes], on_bytes: OnBytes) -> bool:
    """Download one blob, or the rest of it; return whether its digest matches.

    Args:
        registry: the repository.
        blob: the blob.
        part: file for reading and writing with what is there of it.
        on_bytes: as for `RegistryBundle.download`.

    Raises:
        RegistryError: the registry does not have the blob, or there were too many failures.
    """
    patience = registry.patience()
    hasher = hashlib.sha256()
    offset = 0
    while offset < blob.size and (chunk := part.read(min(CHUNK, blob.size - offset))):
        hasher.update(chunk)
        offset += len(chunk)
    part.truncate(offset)
    on_bytes(offset)
    reached = offset
    while offset < blob.size:
        try:
            for chunk in _rest(registry, blob, offset):
                part.write(chunk)
                hasher.update(chunk)
                offset += len(chunk)
                on_bytes(len(chunk))
        except _NoRangesError:
            part.seek(0)
            part.truncate()
            hasher = hashlib.sha256()
            on_bytes(-offset)
            offset = 0
        except TransientError as error:
            if offset - reached >= PROGRESS:
                reached = offset
                patience.progressed()
            patience.failed(error)
    part.flush()
    os.fsync(part.fileno())
    return hasher.hexdigest() == blob.sha256


class _NoRangesError(Exception):
    """The registry does not serve ranges, so that a blob can only be read from its beginning."""


def _rest(registry: Registry, blob: Blob, offset: int) -> Iterator[bytes]:
    """Read a blob from an offset to its end, and never more.

    Raises:
        RegistryError: the registry does not have the blob, or sends more of it.
        TransientError: the connection failed before the end.
    """
    path = f"blobs/{layer_digest(blob)}"
    expected = (200, 206, 416) if offset else (200,)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with registry.request("GET", path, expected=expected, headers=headers) as response:
        ranged = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        if offset and (response.status != 206 or not ranged):
            raise _NoRangesError
        left = blob.size - offset
        for chunk in response.chunks():
            if len(chunk) > left:
                raise RegistryError(
                    f"the registry sent more than the {blob.size} bytes of {layer_digest(blob)}",
                    hint=DAMAGED,
                )
            left -= len(chunk)
            yield chunk
        if left:
            raise TransientError(f"{response.url_host} closed the connection early")
