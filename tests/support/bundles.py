"""Make small bundles without a model or a frozen program, byte by byte where a test wants it."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.manifest import Blob, Component, Manifest, Record, Settings
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.quantization import QuantizationFacts
from device_runtime.bundle.reader import END, member_header, padding
from tests.support.keys import Key, envelope

SBOM = b'{"bomFormat": "CycloneDX"}\n'
PROGRAM = b"#!/bin/sh\necho runtime\n" * 200


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Draft:
    """A bundle in the making: a manifest, the stored bytes of its blobs, and who signs it."""

    manifest: Manifest
    blobs: dict[str, bytes]
    keys: tuple[Key, ...] = ()

    def members(self) -> list[tuple[str, bytes]]:
        encoded = schema.encode(self.manifest)
        small = [
            (schema.MARKER_NAME, schema.marker(encoded)),
            (schema.MANIFEST_NAME, encoded),
            (schema.SIGNATURE_NAME, envelope(encoded, *self.keys) if self.keys else b""),
            (schema.SBOM_NAME, SBOM),
        ]
        stored = [(schema.BLOB_PREFIX + name, self.blobs[name]) for name in self.manifest.blobs]
        return small + stored

    def with_records(self, *records: Record) -> "Draft":
        changed = msgspec.structs.replace(self.manifest, records=(*self.manifest.records, *records))
        return replace(self, manifest=changed)

    def with_file(self, path: str, data: bytes) -> "Draft":
        """Add a file of the model, stored as it is."""
        name = digest(data)
        blob = Blob(sha256=name, size=len(data))
        record = Record(
            path=path, component="model", mode=0o644, size=len(data), sha256=name, blob=blob
        )
        return Draft(self.manifest, {**self.blobs, name: data}).with_records(record)

    def replaced(self, **changes: Any) -> "Draft":
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **changes))

    def signed(self, *keys: Key) -> "Draft":
        return replace(self, keys=keys)

    def write(self, path: Path) -> Path:
        path.write_bytes(tar(self.members()))
        return path


def with_manifest(members: list[tuple[str, bytes]], text: bytes) -> list[tuple[str, bytes]]:
    """The members with another manifest, and the format marker that goes with it."""
    changed = {schema.MARKER_NAME: schema.marker(text), schema.MANIFEST_NAME: text}
    return [(name, changed.get(name, data)) for name, data in members]


def tar(members: list[tuple[str, bytes]]) -> bytes:
    return b"".join(member(name, data) for name, data in members) + END


def member(name: str, data: bytes) -> bytes:
    return member_header(name, len(data)) + data + padding(len(data))


def draft(machine: str | None = "x86_64") -> Draft:
    """A bundle with a plain file, a compressed one, a doubled one, an empty one and a link."""
    records: list[Record] = []
    blobs: dict[str, bytes] = {}

    def add(path: str, component: Component, data: bytes, mode: int, compress: bool) -> None:
        stored = zstandard.compress(data) if compress else data
        blob = Blob(
            sha256=digest(stored), size=len(stored), compression="zstd" if compress else "none"
        )
        blobs[blob.sha256] = stored
        records.append(
            Record(
                path=path,
                component=component,
                mode=mode,
                size=len(data),
                sha256=digest(data),
                blob=blob,
            )
        )

    if machine is not None:
        add(schema.RUNTIME_ENTRY, "runtime", PROGRAM, 0o755, True)
        add("runtime/_internal/copy", "runtime", PROGRAM, 0o644, True)
        records.append(
            Record(
                path="runtime/_internal/link",
                component="runtime",
                mode=0o777,
                link="../edgepack-runtime",
            )
        )
    add("model/model.onnx.data", "model", bytes(range(256)) * 20, 0o644, False)
    add("model/empty", "model", b"", 0o644, False)
    add("model/tokenizer.json", "tokenizer", b"{}" * 500, 0o644, True)
    kit = None
    if machine is not None:
        kit = KitFacts(
            name=f"linux-{machine}-cpu", machine=machine, digest=digest(b"kit"), min_glibc="2.17"
        )
    manifest = Manifest(
        format=schema.FORMAT,
        id="tiny-cpu",
        version="1.0.0",
        sequence=1,
        profile="cpu",
        compatible=(f"linux-{machine or 'x86_64'}",),
        kit=kit,
        model=ModelFacts(
            name="tiny",
            source="test",
            source_sha256=digest(b"source"),
            architecture="LlamaForCausalLM",
            parameters=1000,
            license="Apache-2.0",
        ),
        quantization=QuantizationFacts(
            recipe="fp32",
            precision="fp32",
            execution_provider="cpu",
            options={},
            operators={"MatMul": 1},
            answers=(),
        ),
        context_length=256,
        memory_bytes=1 << 20,
        settings=Settings(
            listen="127.0.0.1:8080", threads=1, max_tokens=64, status_interval_s=10.0
        ),
        built_with={"edgepack": "0"},
        sbom=Blob(sha256=digest(SBOM), size=len(SBOM)),
        records=tuple(records),
    )
    return Draft(manifest, blobs)
