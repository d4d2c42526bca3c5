"""An update: a bundle without the data that a device with an older release has already.

It is a tar like a bundle (`manifest.py`, `reader.py`), read just as strictly, in this order:

1. `edgepack-delta`: the marker, `edgepack-delta 2 sha256:<manifest> sha256:<delta.json>\\n`;
2. `manifest.json`, `manifest.sig` and `sbom.cdx.json` of the complete bundle, so the release is the
   same one, with the same signatures;
3. `delta.json`: a `Delta`;
4. for each blob of the manifest in order, unless it is held: `patches/sha256/<hex>` if it has a
   patch, otherwise `blobs/sha256/<hex>`.

A patch is a zstd frame whose dictionary is the content of an installed file (`zstd --patch-from`).
delta.json is not signed: it only says how to get at content. A patch's bytes are compared with
delta.json before the decoder reads them, the base with its digest, and the result with the signed
manifest. A base is installed content and never content of the update itself, so there are no
chains of patches.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import zstandard
from msgspec import Meta

from device_runtime import memory
from device_runtime.bundle import manifest as schema
from device_runtime.bundle import strict_json
from device_runtime.bundle.fields import FileBytes, Sha256, Version
from device_runtime.bundle.manifest import DAMAGED, Blob, Manifest, Record
from device_runtime.bundle.quantization import Struct
from device_runtime.bundle.reader import BLOCK, UPDATE_MARKER_NAME, Bundle, open_file
from device_runtime.bundle.release import OnBytes, file_chunks
from device_runtime.bundle.source import Base, counted, decompress, store_checked
from device_runtime.errors import BundleError, InstallError, ResourceError

DELTA_NAME = "delta.json"
PATCH_PREFIX = "patches/sha256/"

MAX_DELTA_BYTES = 8 << 20
MAX_PATCHED = 512 << 20
"""Largest base, and largest result, of a patch, bytes: both are in memory at once."""
MAX_BASES = 8 << 30
"""Most that is read for all patches together, bytes; a file may be the base of several."""

FULL = "Install the complete bundle."

_MARKER = re.compile(
    rb"%s ([0-9]{1,4}) sha256:([0-9a-f]{64}) sha256:([0-9a-f]{64})\n" % UPDATE_MARKER_NAME.encode()
)

ContentBytes = Annotated[int, Meta(gt=0, le=MAX_PATCHED)]


class Patch(Struct, frozen=True, kw_only=True):
    """A patch in place of a blob.

    Attributes:
        blob: digest of the blob that it replaces.
        base: digest of the installed content that it is applied to.
        base_size: length of that content, bytes.
        sha256: digest of the patch; its name in the update.
        size: length of the patch, bytes.
    """

    blob: Sha256
    base: Sha256
    base_size: ContentBytes
    sha256: Sha256
    size: FileBytes


class Delta(Struct, frozen=True, kw_only=True):
    """The difference between an update and its complete bundle.

    Attributes:
        old_version: version of the release that the update was made from.
        old: digest of that release.
        held: digests of the blobs that are left out: that release has their content.
        patches: patches in place of blobs.
    """

    old_version: Version
    old: Sha256
    held: tuple[Sha256, ...]
    patches: tuple[Patch, ...]


def marker(manifest_bytes: bytes, delta_bytes: bytes) -> bytes:
    """Return the marker of an update."""
    digests = (hashlib.sha256(data).hexdigest() for data in (manifest_bytes, delta_bytes))
    return f"{UPDATE_MARKER_NAME} {schema.FORMAT} sha256:{' sha256:'.join(digests)}\n".encode()


def memory_bytes(delta: Delta, manifest: Manifest) -> int:
    """Return the memory that applying an update's patches takes, bytes.

    One patch is applied at a time; it needs the base, and another copy of it or the result.
    """
    sizes = {r.blob.sha256: r.size for r in manifest.records if r.blob is not None}
    needs = (p.base_size + max(p.base_size, sizes[p.blob]) for p in delta.patches)
    return max(needs, default=0)


class DeltaBundle(Bundle):
    """An open update: its head has been read and checked, its data has not.

    Attributes:
        delta: the checked `delta.json`.
    """

    _base: Base | None = None

    def build_on(self, base: Base) -> None:
        """Check that all installed files that the update needs are there, and use them."""
        records = {r.blob.sha256: r for r in self.manifest.records if r.blob is not None}
        needed = {records[blob].sha256 for blob in self._held}
        needed |= {patch.base for patch in self.delta.patches}
        missing = [digest for digest in needed if base(digest) is None]
        if missing:
            raise InstallError(
                f"this update is for devices with version {self.delta.old_version} (release "
                f"{self.delta.old[:12]}): {len(missing)} of the {len(needed)} files that it builds "
                "on are not installed here",
                hint=FULL,
            )
        most = memory_bytes(self.delta, self.manifest)
        if most > (available := memory.available()):
            raise ResourceError(
                f"the update's patches need {most >> 20} MiB of memory; {available >> 20} MiB are "
                "available",
                hint=FULL,
            )
        self._base = base

    def content(
        self, record: Record, blob: Blob, folder: Path | None, on_bytes: OnBytes | None
    ) -> Iterator[bytes]:
        """Read the content of a record, from the update or from an installed file."""
        patch = self._patches.get(blob.sha256)
        if blob.sha256 in self._held:
            yield from self._installed(record.sha256, record.size)
        elif patch is None:
            yield from super().content(record, blob, folder, on_bytes)
        else:
            with tempfile.TemporaryFile(dir=folder) as stored:
                chunks = self._data(PATCH_PREFIX + patch.sha256, patch.size)
                store_checked(counted(chunks, on_bytes), patch.sha256, record, stored)
                yield from decompress(
                    stored, record, self._dictionary(patch), 1 << window_log(record.size)
                )

    def _dictionary(self, patch: Patch) -> zstandard.ZstdCompressionDict:
        content = b"".join(self._installed(patch.base, patch.base_size))
        return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def _installed(self, digest: Sha256, size: int) -> Iterator[bytes]:
        """Read an installed file; more than its expected size is not read.

        Raises:
            BundleError: it is missing, or does not have the content with that digest.
        """
        path = self._base(digest) if self._base else None
        hasher = hashlib.sha256()
        left = size
        try:
            for chunk in file_chunks(path) if path is not None else ():
                left -= len(chunk)
                if left < 0:
                    break
                hasher.update(chunk)
                yield chunk
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}", hint=FULL) from None
        if left != 0 or hasher.hexdigest() != digest:
            raise BundleError(
                f"a file that the update builds on is damaged: {path or digest}", hint=FULL
            )

    def _read_marker(self) -> Sha256:
        """Read the first member; return the digest of the manifest."""
        match = _MARKER.fullmatch(self._small(UPDATE_MARKER_NAME, 256))
        if match is None:
            raise BundleError("the format marker is damaged", hint=DAMAGED)
        schema.check_format(int(match[1]))
        self._delta_digest = match[3].decode()
        return match[2].decode()

    def _data_members(self) -> list[tuple[str, int]]:
        """Read `delta.json`; list the members after it."""
        data = self._small(DELTA_NAME, MAX_DELTA_BYTES)
        if hashlib.sha256(data).hexdigest() != self._delta_digest:
            raise BundleError(f"{DELTA_NAME} does not match the format marker", hint=DAMAGED)
        self.delta = decode(data, self.manifest)
        self._held = frozenset(self.delta.held)
        self._patches = {patch.blob: patch for patch in self.delta.patches}
        members = dict[str, int]()
        for digest, blob in self.manifest.blobs.items():
            if patch := self._patches.get(digest):
                members[PATCH_PREFIX + patch.sha256] = patch.size
            elif digest not in self._held:
                members[schema.BLOB_PREFIX + digest] = blob.size
        return list(members.items())


def window_log(size: int) -> int:
    """Return the window log of a patch: the window holds the whole result.

    zstd can refer to all of a dictionary while the window has not moved past the first byte.
    """
    return max(10, (size - 1).bit_length())


def decode(data: bytes, manifest: Manifest) -> Delta:
    """Read and check `delta.json`; nothing in it is trusted.

    Raises:
        BundleError: it is not valid, or does not fit the manifest.
    """
    strict_json.check(data, DELTA_NAME)
    try:
        delta = msgspec.json.decode(data, type=Delta)
    except msgspec.DecodeError as error:
        raise BundleError(f"{DELTA_NAME} is not valid: {error}", hint=DAMAGED) from None
    broken = problems(delta, manifest)
    if broken:
        raise BundleError(f"{DELTA_NAME} is not valid: " + "; ".join(broken[:10]), hint=DAMAGED)
    return delta


def problems(delta: Delta, manifest: Manifest) -> list[str]:
    """List every rule that a well-typed `delta.json` breaks, one sentence each."""
    broken = []
    named = [*delta.held, *(patch.blob for patch in delta.patches)]
    if len(set(named)) != len(named):
        broken.append("a blob is named twice")
    records = {r.blob.sha256: (r, r.blob) for r in manifest.records if r.blob is not None}
    if not set(named) <= records.keys():
        broken.append("it names a blob that the manifest does not have")
        return broken
    if sum(patch.base_size for patch in delta.patches) > MAX_BASES:
        broken.append(f"its patches have bases of more than {MAX_BASES >> 20} MiB together")
    sizes: dict[Sha256, int] = {}
    for patch in delta.patches:
        where = f"the patch {patch.sha256[:12]}"
        record, blob = records[patch.blob]
        if patch.size > blob.size or sizes.setdefault(patch.sha256, patch.size) != patch.size:
            broken.append(f"{where} has a wrong size")
        if record.size > MAX_PATCHED:
            broken.append(f"{where} has a result of more than {MAX_PATCHED >> 20} MiB")
    return broken


@contextmanager
def open_update(path: Path) -> Iterator[Bundle]:
    """Open a bundle or an update, whichever it is, and check its head.

    An update also needs `build_on` before its data can be read.

    Raises:
        BundleError: it is missing, neither of the two, damaged, or of another format version.
    """
    with open_file(path) as file:
        name = file.read(BLOCK)[:100].rstrip(b"\0")
        file.seek(0)
        yield DeltaBundle(file) if name == UPDATE_MARKER_NAME.encode() else Bundle(file)
