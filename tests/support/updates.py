"""Updates: two versions of a bundle, the file between them, and that file taken apart."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from device_runtime.bundle import delta as schema
from device_runtime.bundle import manifest
from device_runtime.bundle.manifest import Blob, Record
from device_runtime.bundle.reader import UPDATE_MARKER_NAME, Bundle, open_bundle
from device_runtime.bundle.source import Base
from packager.diff import diff
from tests.support.bundles import Draft, digest, draft, tar

PROGRAM = manifest.RUNTIME_ENTRY
WEIGHTS = "model/model.onnx.data"
Members = list[tuple[str, bytes]]


def scattered(data: bytes, edits: int, length: int = 16, seed: int = 77) -> bytes:
    """The data with some short stretches replaced, as by a rebuild of a program."""
    random = Random(seed)
    changed = bytearray(data)
    for _ in range(edits):
        start = random.randrange(len(data) - length)
        changed[start : start + length] = random.randbytes(length)
    return bytes(changed)


def version_of(files: Mapping[str, bytes], version: str, sequence: int) -> Draft:
    """A bundle with these files, none compressed."""
    records = []
    for path, data in files.items():
        blob = Blob(sha256=digest(data), size=len(data))
        records.append(
            Record(
                path=path,
                component="runtime" if path.startswith("runtime/") else "model",
                mode=0o755 if path == PROGRAM else 0o644,
                size=len(data),
                sha256=blob.sha256,
                blob=blob,
            )
        )
    blobs = {digest(data): data for data in files.values()}
    whole = Draft(draft().manifest, blobs)
    return whole.replaced(version=version, sequence=sequence, records=tuple(records))


class Update:
    """A folder with `old.epk`, `new.epk`, `update.epk` and what a device with `old.epk` has."""

    def __init__(self, folder: Path, old: Draft, new: Draft) -> None:
        self.folder = folder
        self.old = old.write(folder / "old.epk")
        self.new = new.write(folder / "new.epk")
        self.path = folder / "update.epk"
        self.difference = diff(self.old, self.new, self.path)
        installed = folder / "installed"
        installed.mkdir()
        with open_bundle(self.old) as bundle:
            self.release = bundle.unpack(installed)

    @property
    def base(self) -> Base:
        """What the device offers as bases."""
        records = self.release.manifest.records
        return {record.sha256: self.release.folder / record.path for record in records}.get

    @contextmanager
    def opened(self, path: Path | None = None) -> Iterator[Bundle]:
        """Open the update, or another file, as that device does."""
        with schema.open_update(path or self.path) as bundle:
            bundle.build_on(self.base)
            yield bundle

    def members(self) -> Members:
        """The members of the update."""
        with tarfile.open(self.path, "r:") as archive:
            return [(item.name, archive.extractfile(item).read()) for item in archive]  # type: ignore[union-attr]

    def changed(self, change: Callable[[dict[str, Any]], None]) -> bytes:
        """The update with another `delta.json`, and the marker that goes with it."""
        members = self.members()
        fields = msgspec.json.decode(dict(members)[schema.DELTA_NAME])
        change(fields)
        return tar(with_delta(members, msgspec.json.encode(fields)))

    def with_patch(self, patch: bytes) -> bytes:
        """The update with another first patch, under its right digest and size."""
        members = self.members()
        fields = msgspec.json.decode(dict(members)[schema.DELTA_NAME])
        first = fields["patches"][0]
        name = schema.PATCH_PREFIX + first["sha256"]
        first["sha256"], first["size"] = hashlib.sha256(patch).hexdigest(), len(patch)
        changed = {name: (schema.PATCH_PREFIX + first["sha256"], patch)}
        members = [changed.get(member[0], member) for member in members]
        return tar(with_delta(members, msgspec.json.encode(fields)))


def with_delta(members: Members, text: bytes) -> Members:
    changed = {
        UPDATE_MARKER_NAME: schema.marker(dict(members)[manifest.MANIFEST_NAME], text),
        schema.DELTA_NAME: text,
    }
    return [(name, changed.get(name, data)) for name, data in members]
