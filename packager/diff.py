"""The difference of two bundles: what an update moves, and the file that moves only that."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import zstandard

from device_runtime.bundle import delta as schema
from device_runtime.bundle import manifest
from device_runtime.bundle.delta import Delta, Patch
from device_runtime.bundle.fields import Sha256
from device_runtime.bundle.manifest import Blob, Component, Record
from device_runtime.bundle.reader import (
    END,
    UPDATE_MARKER_NAME,
    Bundle,
    member_header,
    open_bundle,
    padding,
)
from device_runtime.bundle.release import Release
from packager import console, launch
from packager.aside import written_aside
from packager.machine import memory_available

Kind = Literal["unchanged", "added", "removed", "changed"]

SMALL = 32 << 20
"""Up to this length of old and new content together, bytes, zstd searches thoroughly.

Two builds of a 16 MB library take 15 s and a fifth less than with the fast search, two versions of
a 29 MB one 78 s and a ninth less; on weights it finds no more.
"""
THOROUGH_MEMORY = 28
FAST_MEMORY = 14
"""Memory that a search takes, as a multiple of the longer content: measured with 29 and 128 MiB."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A record of either bundle, and the bytes that an update moves for it.

    Attributes:
        path: path of the record.
        component: its component.
        kind: what becomes of it.
        size: length of its new content, bytes; 0 if it is removed.
        whole: stored bytes in the complete bundle; 0 for the second record with the same content.
        new: the same if the old release does not have that content, otherwise 0.
        moved: bytes in the update.
    """

    path: str
    component: Component
    kind: Kind
    size: int = 0
    whole: int = 0
    new: int = 0
    moved: int = 0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two bundles.

    Attributes:
        delta: what an update leaves out, and its patches.
        patches: the bytes of the patches, by their digest.
        changes: all records of both bundles, by path.
        memory_bytes: memory that the device needs to apply the patches, bytes.
    """

    delta: Delta
    patches: Mapping[Sha256, bytes]
    changes: tuple[Change, ...]
    memory_bytes: int


def diff(old: Path, new: Path, output: Path | None = None) -> Difference:
    """Compare two bundles; write the update from one to the other if its path is given.

    Args:
        old: the bundle that the devices have.
        new: the bundle that they will have. Sign it before: the update has its signatures.
        output: path of the update.

    Raises:
        BundleError: a bundle is damaged.
        ResourceError: the disk is full.
    """
    release = launch.release_of(old)
    with open_bundle(new) as bundle:
        with console.step(f"Comparing {old.name} with {new.name}"):
            bundle.verify()
            difference = _compare(release, bundle)
        if output is not None:
            with console.step(f"Writing and verifying {output}"):
                _write(output, release, bundle, difference)
    return difference


def _compare(old: Release, new: Bundle) -> Difference:
    before = {record.path: record for record in old.manifest.records}
    similar = {_family(record.path): record for record in old.manifest.records}
    content = {record.sha256 for record in old.manifest.records if record.blob is not None}
    held: list[Sha256] = []
    patches: dict[Sha256, Patch] = {}
    data: dict[Sha256, bytes] = {}
    seen: set[Sha256] = set()
    changes: list[Change] = []
    for record in new.manifest.records:
        previous = before.pop(record.path, None)
        change = Change(
            path=record.path,
            component=record.component,
            kind=_kind(previous, record),
            size=record.size,
        )
        blob = record.blob
        if blob is not None and blob.sha256 not in seen:
            seen.add(blob.sha256)
            base = previous or similar.get(_family(record.path))
            if record.sha256 in content:
                held.append(blob.sha256)
                change = replace(change, whole=blob.size)
            elif base and (packed := _patch(old, base, new, record, blob)):
                patch, data[patch.sha256] = packed
                patches[blob.sha256] = patch
                change = replace(change, whole=blob.size, new=blob.size, moved=patch.size)
            else:
                change = replace(change, whole=blob.size, new=blob.size, moved=blob.size)
        changes.append(change)
    changes += [
        Change(path=record.path, component=record.component, kind="removed")
        for record in before.values()
    ]
    delta = Delta(
        old_version=old.manifest.version,
        old=old.digest,
        held=tuple(held),
        patches=tuple(patches.values()),
    )
    return Difference(
        delta=delta,
        patches=data,
        changes=tuple(sorted(changes, key=lambda change: change.path)),
        memory_bytes=schema.memory_bytes(delta, new.manifest),
    )


def _kind(previous: Record | None, record: Record) -> Kind:
    if previous is None:
        return "added"
    same = (previous.sha256, previous.mode, previous.link) == (
        record.sha256,
        record.mode,
        record.link,
    )
    return "unchanged" if same else "changed"


def _family(path: str) -> str:
    """Reduce a path to what two versions of a library have in common, `lib/libx.so.#.#`."""
    return re.sub(r"[0-9]+", "#", path)


def _patch(
    old: Release, base: Record, new: Bundle, record: Record, blob: Blob
) -> tuple[Patch, bytes] | None:
    """Make a patch from an installed file to a record; None unless it saves more than a third."""
    if base.blob is None or not 0 < base.size <= schema.MAX_PATCHED:
        return None
    if record.size > schema.MAX_PATCHED:
        return None
    thorough = base.size + record.size <= SMALL
    needed = (THOROUGH_MEMORY if thorough else FAST_MEMORY) * max(base.size, record.size)
    if needed > memory_available():
        console.warn(f"{record.path} moves whole: a patch would need {needed >> 20} MiB of memory")
        return None
    before = (old.folder / base.path).read_bytes()
    after = b"".join(new.content(record, blob, None, None))
    packed = _compress(before, after, thorough=thorough)
    if 3 * len(packed) >= 2 * blob.size:
        return None
    patch = Patch(
        blob=blob.sha256,
        base=base.sha256,
        base_size=base.size,
        sha256=hashlib.sha256(packed).hexdigest(),
        size=len(packed),
    )
    return patch, packed


def _compress(before: bytes, after: bytes, *, thorough: bool) -> bytes:
    """Compress content with older content as the dictionary, like `zstd --patch-from`.

    The tables have an entry for each position of the old content: zstd forgets the beginning of a
    dictionary that is larger than they are.
    """
    positions = max(10, len(before).bit_length())
    parameters = zstandard.ZstdCompressionParameters(
        window_log=schema.window_log(len(after)),
        hash_log=positions,
        chain_log=positions + 1 if thorough else 10,
        search_log=4,
        min_match=3 if thorough else 6,
        target_length=64,
        strategy=zstandard.STRATEGY_BTULTRA if thorough else zstandard.STRATEGY_LAZY2,
        write_content_size=True,
    )
    dictionary = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    return compressor.compress(after)


def _write(path: Path, old: Release, new: Bundle, difference: Difference) -> None:
    """Write an update, and verify it as a device with the old release would."""
    installed = {record.sha256: old.folder / record.path for record in old.manifest.records}
    hint = "Free some space there, or choose another location with -o FILE.epk."
    with written_aside(path, hint) as file:
        for name, size, chunks in _members(new, difference):
            file.write(member_header(name, size))
            file.writelines(chunks)
            file.write(padding(size))
        file.write(END)
        file.flush()
        with schema.open_update(Path(file.name)) as update:
            update.build_on(installed.get)
            update.verify()


def _members(new: Bundle, difference: Difference) -> Iterator[tuple[str, int, Iterable[bytes]]]:
    """List the members of an update in order: name, size, content."""
    delta = msgspec.json.format(msgspec.json.encode(difference.delta), indent=1) + b"\n"
    for name, data in (
        (UPDATE_MARKER_NAME, schema.marker(new.manifest_bytes, delta)),
        (manifest.MANIFEST_NAME, new.manifest_bytes),
        (manifest.SIGNATURE_NAME, new.signature),
        (manifest.SBOM_NAME, new.sbom),
        (schema.DELTA_NAME, delta),
    ):
        yield name, len(data), [data]
    patched = {patch.blob: patch.sha256 for patch in difference.delta.patches}
    patches = dict(difference.patches)
    for digest, blob in new.manifest.blobs.items():
        if digest not in patched and digest not in difference.delta.held:
            yield manifest.BLOB_PREFIX + digest, blob.size, new.chunks(blob)
        # Two blobs may have the same patch, on different bases; it is stored once.
        elif patch := patches.pop(patched.get(digest, ""), None):
            yield schema.PATCH_PREFIX + patched[digest], len(patch), [patch]
