"""Write a bundle: `device_runtime.bundle` defines the format (manifest) and reads it (reader).

Writers return records; the manifest is assembled from them, without a second scan.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.fields import MAX_FILE_BYTES
from device_runtime.bundle.manifest import Blob, Component, Manifest, Record
from device_runtime.bundle.reader import END, member_header, open_bundle, padding
from device_runtime.bundle.release import file_chunks
from device_runtime.bundle.source import Source
from packager import cache, console, keys
from packager.aside import written_aside
from packager.errors import PackagerError
from packager.private_keys import Signer
from packager.run import stop_check
from packager.tree import Tree

LEVEL = 18
"""zstd's level. On a runtime, 19 takes a fifth longer for 0.2 % fewer bytes."""
LARGE = 64 << 20
"""Size from which one file is compressed by all cores, bytes. That gives other bytes than one core
does, but the same for any number of cores."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A record, and the file on this host that holds its stored bytes (None for a link)."""

    record: Record
    stored: Path | None


def pack(
    tree: Tree,
    prefix: str,
    inputs: Mapping[str, Any],
    component: Callable[[str], Component],
    weights: Iterable[Path] = (),
) -> list[Part]:
    """Compress all files below a folder; return them in the order of their names (cached).

    Quantized weights have next to no redundancy: compressing them takes minutes on the host and
    time in each installation, and saves a few per cent.

    Args:
        tree: the folder to pack.
        prefix: folder of the release that the files go into.
        inputs: inputs that determine the content of the folder, for the cache.
        component: returns the component of a path (relative to the folder).
        weights: files below the folder to store as they are.
    """

    folder = tree.folder
    check_stopped = stop_check()
    uncompressed = frozenset(path.relative_to(folder).as_posix() for path in weights)

    def make(target: Path) -> None:
        names = tree.names()
        total = sum((folder / name).stat().st_size for name in names if name not in tree.links)
        with (
            console.progress("Compressing", total) as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            records = list(pool.map(lambda name: describe(name, target, advance), names))
        (target / "records.json").write_bytes(msgspec.json.encode(records))

    def describe(name: str, target: Path, advance: Callable[[int], None]) -> Record:
        path = folder / name
        kind = component(name)
        where = f"{prefix}/{name}"
        if name in tree.links:
            return Record(path=where, component=kind, mode=0o777, link=tree.links[name])
        mode = tree.mode(name)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PackagerError(f"{path.name} is too large for a bundle: {size} bytes")
        digest = cache.file_digest(path)
        blob = Blob(sha256=digest, size=size)
        if name in uncompressed:
            advance(size)
        else:
            compressed = _compress(path, target, check_stopped, advance)
            if schema.dense(size, compressed.size):
                blob = compressed
        return Record(path=where, component=kind, mode=mode, size=size, sha256=digest, blob=blob)

    settings = {"level": LEVEL, "ratio": schema.MAX_RATIO, "uncompressed": sorted(uncompressed)}
    packed = cache.stage("packed", {**inputs, "prefix": prefix, **settings}, make)
    records = msgspec.json.decode((packed / "records.json").read_bytes(), type=list[Record])
    parts = []
    for record in records:
        stored = None
        if record.blob is not None and record.blob.compression == "none":
            stored = folder / record.path.removeprefix(f"{prefix}/")
        elif record.blob is not None:
            stored = packed / record.blob.sha256
        parts.append(Part(record=record, stored=stored))
    return parts


def _compress(
    path: Path, target: Path, check_stopped: Callable[[], None], advance: Callable[[int], None]
) -> Blob:
    """Compress a file into `target/<digest of the stored bytes>`."""
    hasher = hashlib.sha256()
    size = 0
    whole = path.stat().st_size
    threads = -1 if whole >= LARGE else 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=threads).compressobj(size=whole)

    def compressed() -> Iterator[bytes]:
        for chunk in file_chunks(path):
            check_stopped()
            yield compressor.compress(chunk)
            advance(len(chunk))
        yield compressor.flush()

    with tempfile.NamedTemporaryFile(dir=target, delete=False) as aside:
        for chunk in compressed():
            hasher.update(chunk)
            size += len(chunk)
            aside.write(chunk)
    digest = hasher.hexdigest()
    Path(aside.name).replace(target / digest)
    return Blob(sha256=digest, size=size, compression="zstd")


def write(
    path: Path,
    manifest: Manifest,
    sbom: bytes,
    parts: Iterable[Part],
    signers: Iterable[Signer] = (),
) -> str:
    """Write a bundle to a temporary file, verify it with the device's reader, and rename it.

    Args:
        path: the `.epk` file; replaced if it exists.
        manifest: manifest that describes exactly `parts` and `sbom`.
        sbom: SBOM as CycloneDX JSON.
        parts: records and the locations of their stored bytes.
        signers: keys to sign the manifest with; none for an unsigned bundle.

    Returns:
        The bundle's digest: sha256 (hex) of the manifest's bytes.

    Raises:
        ResourceError: the folder cannot be written to, or its disk is full.
        SigningError: there are too many signers.
    """
    stored = {part.record.blob.sha256: part.stored for part in parts if part.record.blob}

    def chunks(blob: Blob) -> Iterator[bytes]:
        source = stored[blob.sha256]
        if source is None:
            raise ValueError(f"no stored bytes for blob {blob.sha256}")
        return file_chunks(source)

    encoded = schema.encode(manifest)
    signature = keys.envelope(encoded, signers)
    hint = "Free some space there, or choose another location with -o FILE.epk."
    with written_aside(path, hint) as file:
        _write_members(file, manifest, encoded, signature, sbom, chunks)
        file.flush()
        with open_bundle(Path(file.name)) as bundle:
            bundle.verify()
    return bundle.digest


def copy(source: Source, path: Path) -> None:
    """Write a bundle from another source byte for byte, verify it, and give it its name.

    Args:
        source: the bundle.
        path: the `.epk` file; replaced if it exists.

    Raises:
        BundleError: the bundle is damaged.
        ResourceError: the folder cannot be written to, or its disk is full.
    """
    hint = "Free some space there, or choose another location with -o FILE.epk."
    head = (source.manifest, source.manifest_bytes, source.signature, source.sbom)
    with written_aside(path, hint) as file:
        _write_members(file, *head, source.chunks)
        file.flush()
        with open_bundle(Path(file.name)) as bundle:
            bundle.verify()


def sign(path: Path, signers: Iterable[Signer]) -> None:
    """Add signatures to a bundle, which keeps all else.

    Raises:
        BundleError: the bundle, or a signature that it has, is not valid.
        ResourceError: the folder cannot be written to, or its disk is full.
        SigningError: there would be too many signatures.
    """
    path = path.resolve()
    with open_bundle(path) as bundle:
        encoded = bundle.manifest_bytes
        signature = keys.envelope(encoded, signers, bundle.signature)
        if signature == bundle.signature:
            return
        hint = "Free some space there: the bundle is written again as a whole."
        with written_aside(path, hint) as file:
            _write_members(file, bundle.manifest, encoded, signature, bundle.sbom, bundle.chunks)
            bundle.check_rest()


def _write_members(
    file: IO[bytes],
    manifest: Manifest,
    encoded: bytes,
    signature: bytes,
    sbom: bytes,
    chunks: Callable[[Blob], Iterator[bytes]],
) -> None:
    small = {
        schema.MARKER_NAME: schema.marker(encoded),
        schema.MANIFEST_NAME: encoded,
        schema.SIGNATURE_NAME: signature,
        schema.SBOM_NAME: sbom,
    }
    for name, data in small.items():
        file.write(member_header(name, len(data)) + data + padding(len(data)))
    total = sum(blob.size for blob in manifest.blobs.values())
    with console.progress("Writing", total) as advance:
        for digest, blob in manifest.blobs.items():
            file.write(member_header(schema.BLOB_PREFIX + digest, blob.size))
            for chunk in chunks(blob):
                file.write(chunk)
                advance(len(chunk))
            file.write(padding(blob.size))
    file.write(END)
