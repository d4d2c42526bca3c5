"""Fuzz the reader of updates, and `delta.json` alone: the digests are right, or always match."""

import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import zstandard

from device_runtime.bundle import delta as schema
from device_runtime.bundle import manifest
from device_runtime.bundle.delta import Delta, DeltaBundle, Patch
from device_runtime.bundle.reader import UPDATE_MARKER_NAME
from device_runtime.errors import BundleError, DeviceError
from tests.fuzz import manifest as fuzz_manifest
from tests.fuzz import tar_reader
from tests.support.bundles import SBOM, digest, tar
from tests.support.updates import PROGRAM, WEIGHTS, scattered, version_of, with_delta

CODE = random.Random(1).randbytes(4000)
NEW_CODE = scattered(CODE, 5)
LAYERS = random.Random(2).randbytes(3000)
FILES = {PROGRAM: NEW_CODE, WEIGHTS: LAYERS, "model/new.json": b"{}" * 100}
BUNDLE = version_of(FILES, "1.1.0", 2)
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-installed-")
INSTALLED = {digest(data): Path(FOLDER.name, digest(data)) for data in (CODE, LAYERS)}
for path, content in zip(INSTALLED.values(), (CODE, LAYERS), strict=True):
    path.write_bytes(content)


def patch_of(data: bytes) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(CODE, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary).compress(data)


PATCH = patch_of(NEW_CODE)
DELTA = msgspec.json.encode(
    Delta(
        old_version="1.0.0",
        old="0" * 64,
        held=(digest(LAYERS),),
        patches=(
            Patch(
                blob=digest(NEW_CODE),
                base=digest(CODE),
                base_size=len(CODE),
                sha256=digest(PATCH),
                size=len(PATCH),
            ),
        ),
    )
)
STORED = {
    digest(NEW_CODE): (schema.PATCH_PREFIX + digest(PATCH), PATCH),
    digest(FILES["model/new.json"]): (
        manifest.BLOB_PREFIX + digest(FILES["model/new.json"]),
        FILES["model/new.json"],
    ),
}
MEMBERS = with_delta(
    [
        (UPDATE_MARKER_NAME, b""),
        (manifest.MANIFEST_NAME, manifest.encode(BUNDLE.manifest)),
        (manifest.SIGNATURE_NAME, b""),
        (manifest.SBOM_NAME, SBOM),
        (schema.DELTA_NAME, DELTA),
        *(STORED[blob] for blob in BUNDLE.manifest.blobs if blob in STORED),
    ],
    DELTA,
)


def run(data: bytes) -> None:
    with suppress(BundleError):
        decoded = schema.decode(data, BUNDLE.manifest)
        assert schema.decode(msgspec.json.encode(decoded), BUNDLE.manifest) == decoded
    with suppress(DeviceError):
        update = DeltaBundle(io.BytesIO(data))
        update.build_on(INSTALLED.get)
        update.verify()
    with tar_reader.matching(), suppress(DeviceError):
        update = DeltaBundle(io.BytesIO(data))
        update.build_on(lambda sha256: INSTALLED.get(sha256, INSTALLED[digest(CODE)]))
        update.verify()
        tar_reader.unpack(update)


def seeds() -> Iterator[bytes]:
    yield tar(MEMBERS)
    yield DELTA


def mutate(data: bytes, source: random.Random) -> bytes:
    """Change `delta.json`, the patch, or another member, and make the marker fit."""
    members = list(tar_reader.split(data))
    if not members and data.startswith(b"{"):
        return fuzz_manifest.mutate_json(data, DELTA, source)
    if [name for name, _ in members[:5]] != [name for name, _ in MEMBERS[:5]]:
        members = MEMBERS
    chance = source.random()
    if chance < 0.2:
        return tar_reader.mutate(tar(members), source)
    text = dict(members)[schema.DELTA_NAME]
    if chance < 0.6:
        text = fuzz_manifest.mutate_json(text, DELTA, source)
    else:
        text, members = with_patch(text, members, source)
    return tar(with_delta(members, text))


def with_patch(
    text: bytes, members: list[tuple[str, bytes]], source: random.Random
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Put another frame, or a damaged one, in the place of the patch, under its digest."""
    frame = bytearray(patch_of(source.choice((NEW_CODE, CODE, CODE * 9, LAYERS))))
    for _ in range(source.randrange(4)):
        frame[source.randrange(len(frame))] = source.randrange(256)
    patch = bytes(frame)
    old = next((name for name, _ in members if name.startswith(schema.PATCH_PREFIX)), None)
    if old is None:
        return DELTA, MEMBERS
    new = schema.PATCH_PREFIX + digest(patch)
    fields = msgspec.json.decode(DELTA)
    fields["patches"][0] |= {"sha256": digest(patch), "size": len(patch)}
    changed = [(new, patch) if name == old else (name, content) for name, content in members]
    return msgspec.json.encode(fields), changed
