"""The schema of a bundle. No I/O: bytes in, structs out, and the other way round.

A bundle is an uncompressed POSIX tar, read strictly in this order:

1. `edgepack-bundle`: the format marker, `edgepack-bundle 1\\n`;
2. `manifest.json`: a `Manifest`;
3. `manifest.sig`: the signature over the manifest's bytes; empty in an unsigned bundle;
4. `sbom.cdx.json`: CycloneDX, its digest is in the manifest;
5. `blobs/sha256/<hex>`: the stored bytes of the records, each blob once, in the order in which
   the records first name them.

All that is needed to decide whether to install is before the data.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from device_runtime.bundle.quantization import QuantizationFacts, Struct
from device_runtime.errors import BundleError

FORMAT = 1
"""Major version of the format; a reader refuses any other."""

MARKER_NAME = "edgepack-bundle"
MARKER = f"edgepack-bundle {FORMAT}\n".encode()
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
SBOM_NAME = "sbom.cdx.json"
BLOB_PREFIX = "blobs/sha256/"

RUNTIME_ENTRY = "runtime/edgepack-runtime"
"""Path of the frozen program in a bundle that has one."""
MODEL_FOLDER = "model"
"""Folder of a release that ONNX Runtime GenAI opens: graph, weights, config and tokenizer."""

MAX_MANIFEST_BYTES = 4 << 20
MAX_RECORDS = 20_000

Component = Literal["runtime", "model", "tokenizer"]
Sha256 = str

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_GLIBC = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}")


class Blob(Struct, frozen=True, kw_only=True):
    """The stored bytes of a file.

    Attributes:
        sha256: digest of the stored bytes; the blob's name in the bundle.
        size: length of the stored bytes.
        compression: how the file's content became the stored bytes.
    """

    sha256: Sha256
    size: int
    compression: Literal["none", "zstd"] = "none"


class Record(Struct, frozen=True, kw_only=True):
    """One file or symbolic link of a release.

    Attributes:
        path: where it goes, relative to the release, POSIX, without `..`.
        component: the part of the bundle it belongs to.
        mode: permission bits (files: 0o644 or 0o755; links: 0o777).
        size: length of the content in bytes (0 for a link).
        sha256: digest of the content (empty for a link).
        blob: the stored bytes (None for a link).
        link: target of a symbolic link, relative, inside the release (None for a file).
    """

    path: str
    component: Component
    mode: int
    size: int = 0
    sha256: Sha256 = ""
    blob: Blob | None = None
    link: str | None = None


class CudaFacts(Struct, frozen=True, kw_only=True):
    """What a runtime for NVIDIA GPUs needs of the device; nothing of it is in the bundle.

    Attributes:
        version: major version of CUDA, `13`.
        jetpack: oldest JetPack (the system of Jetson boards) that has it, `7`.
        libraries: names under which the dynamic linker must find libraries, `libcudart.so.13`.
        gpus: compute capabilities that the runtime has machine code for: `8.9`, and `9.0+` for
            that one and all later ones.
    """

    version: str
    jetpack: str
    libraries: tuple[str, ...]
    gpus: tuple[str, ...]

    def serves(self, gpu: str) -> bool:
        """Whether the runtime has code for a GPU of that compute capability, `8.7`.

        Machine code is for one capability: others of the same generation could run some of it on
        a graphics card, never on the GPU of a Jetson.
        """
        return any(
            float(gpu) >= float(each[:-1]) if each.endswith("+") else gpu == each
            for each in self.gpus
        )


class KitFacts(Struct, frozen=True, kw_only=True):
    """The frozen runtime in a bundle.

    Attributes:
        name: for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` says it.
        digest: digest of everything the kit was made from.
        min_glibc: oldest C library it starts with, `2.36`.
        cuda: what it needs to use a GPU; None if it uses none.
    """

    name: str
    machine: str
    digest: Sha256
    min_glibc: str
    cuda: CudaFacts | None = None


class ModelFacts(Struct, frozen=True, kw_only=True):
    """The model in a bundle.

    Attributes:
        name: as the user named it, or the catalog does.
        source: where it came from, without a path of the host.
        source_sha256: digest of the source's files.
        architecture: the source's own name of it, `LlamaForCausalLM`.
        parameters: number of weights; 0 where it is not known.
        license: SPDX expression, empty where it is not known.
    """

    name: str
    source: str
    source_sha256: Sha256
    architecture: str
    parameters: int
    license: str


class Settings(Struct, frozen=True, kw_only=True):
    """What the profile says about running; the device may override each.

    Attributes:
        listen: `host:port` of the HTTP server.
        threads: threads of the inference process; 0 leaves it to ONNX Runtime.
        max_tokens: length of an answer for which the request gives none, tokens.
        status_interval_s: seconds between two MQTT telemetry messages.
    """

    listen: str
    threads: int
    max_tokens: int
    status_interval_s: float


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything a device needs to know of a bundle before it reads the data.

    Attributes:
        format: major version of the format.
        id: name of this line of bundles; an update has the same one.
        version: version of this bundle for people.
        sequence: grows with each release of the same id; a device refuses a lower one than it has.
        profile: name of the profile it was built with.
        compatible: hardware it fits, most specific first: names of boards and chips as in a device
            tree, `raspberrypi,5-model-b`, or `linux-aarch64` for any machine of an architecture. A
            device refuses it unless one of them is its own.
        kit: the frozen runtime; None in a model-only bundle.
        model: the model.
        quantization: how it was quantized.
        context_length: prompt and answer together, tokens; the KV cache is sized for it.
        memory_bytes: estimate of the resident memory while serving, bytes.
        settings: how to run it.
        built_with: versions of the programs that built it.
        sbom: stored bytes of the SBOM.
        records: all files and links of the release.
    """

    format: int
    id: str
    version: str
    sequence: int
    profile: str
    compatible: tuple[str, ...]
    kit: KitFacts | None
    model: ModelFacts
    quantization: QuantizationFacts
    context_length: int
    memory_bytes: int
    settings: Settings
    built_with: dict[str, str]
    sbom: Blob
    records: tuple[Record, ...]

    @property
    def blobs(self) -> dict[Sha256, Blob]:
        """The blobs of the bundle by digest, in the order in which they are stored."""
        return {r.blob.sha256: r.blob for r in self.records if r.blob is not None}

    @property
    def installed_size(self) -> int:
        """Bytes that the release's files take."""
        return sum(record.size for record in self.records)


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON: the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read and check a manifest; nothing in it is trusted.

    Checks, in this order: size, JSON and types, format version, then all rules of `problems`.

    Raises:
        BundleError: says everything that is wrong with it.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        version = msgspec.json.decode(data, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"the manifest is not valid: {error}", hint=DAMAGED) from None
    check_format(version.format)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"the manifest is not valid: {error}", hint=DAMAGED) from None
    found = problems(manifest)
    if found:
        raise BundleError("the manifest is not valid: " + "; ".join(found[:10]), hint=DAMAGED)
    return manifest


DAMAGED = "Copy the bundle again from where it was built, or build it again."


class _Version(Struct, frozen=True, kw_only=True):
    format: int


def check_format(version: int) -> None:
    """Refuse any major version of the format but ours.

    Raises:
        BundleError: another version.
    """
    if version != FORMAT:
        raise BundleError(
            f"this bundle has format version {version}; this program reads version {FORMAT}",
            hint="Use the edgepack release that built the bundle, or build it again with this one.",
        )


def problems(manifest: Manifest) -> list[str]:
    """Every rule that a well-typed manifest breaks, one sentence each."""
    found = []
    if not _ID.fullmatch(manifest.id):
        found.append(f"id {manifest.id!r} is not lower-case letters, digits, '.', '_' and '-'")
    if not is_version(manifest.version):
        found.append(f"version {manifest.version!r} is not a version")
    if manifest.sequence < 0:
        found.append("sequence is negative")
    if manifest.context_length < 1:
        found.append("context_length is not positive")
    if len(manifest.records) > MAX_RECORDS:
        found.append(f"more than {MAX_RECORDS} records")
        return found
    found += _blob_problems("sbom", manifest.sbom)
    seen: dict[str, Record] = {}
    for record in manifest.records:
        found += _record_problems(record)
        if record.path in seen:
            found.append(f"{record.path} is there twice")
        seen[record.path] = record
    for path in seen:
        for parent in PurePosixPath(path).parents:
            if str(parent) in seen:
                found.append(f"{path} is below {parent}, which is no folder")
    stored: dict[Sha256, tuple[Blob, Sha256, int]] = {}
    for record in manifest.records:
        if record.blob is not None:
            described = (record.blob, record.sha256, record.size)
            if stored.setdefault(record.blob.sha256, described) != described:
                found.append(f"{record.path}: its blob is described in two ways")
    if manifest.kit is not None:
        entry = seen.get(RUNTIME_ENTRY)
        if not _GLIBC.fullmatch(manifest.kit.min_glibc):
            found.append(f"kit.min_glibc {manifest.kit.min_glibc!r} is not a version")
        if entry is None or entry.blob is None or entry.mode != 0o755:
            found.append(f"{RUNTIME_ENTRY} is missing or no program")
    return found


def is_version(text: str) -> bool:
    """Whether a text may be a bundle's version."""
    return _VERSION.fullmatch(text) is not None


def _record_problems(record: Record) -> list[str]:
    where = repr(record.path)
    found = []
    if not safe_path(record.path):
        found.append(f"{where} is not a plain relative path")
    if record.link is not None:
        if record.blob is not None or record.size or record.sha256:
            found.append(f"{where} is a link and has content")
        if not _link_stays_inside(record.path, record.link):
            found.append(f"{where} links out of the release")
        return found
    if record.mode not in (0o644, 0o755):
        found.append(f"{where} has mode {record.mode:o}")
    if record.blob is None:
        found.append(f"{where} has no content")
        return found
    if not _SHA256.fullmatch(record.sha256) or record.size < 0:
        found.append(f"{where} has no valid size and sha256")
    if record.blob.compression == "none" and (
        record.blob.sha256 != record.sha256 or record.blob.size != record.size
    ):
        found.append(f"{where} is stored as it is but its blob differs")
    return found + _blob_problems(where, record.blob)


def _blob_problems(where: str, blob: Blob) -> list[str]:
    if not _SHA256.fullmatch(blob.sha256) or blob.size < 0:
        return [f"{where} has no valid blob size and sha256"]
    return []


def safe_path(path: str) -> bool:
    """Whether a path is relative, normal, printable and stays below its folder."""
    return (
        0 < len(path) <= 512
        and path.isprintable()
        and "\\" not in path
        and all(0 < len(part) <= 255 and part not in (".", "..") for part in path.split("/"))
    )


def _link_stays_inside(path: str, target: str) -> bool:
    """Whether a relative link stays in the release, whatever the other links are.

    `..` may only lead the target: there it climbs real folders, since no record lies below a
    link. Behind a name it could climb from wherever that name's own link leads.
    """
    if target.startswith("/") or not 0 < len(target) <= 512 or not target.isprintable():
        return False
    parts = target.split("/")
    climbs = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
    below = parts[climbs:]
    return (
        climbs <= len(PurePosixPath(path).parent.parts)
        and len(below) > 0
        and all(part not in ("", ".", "..") for part in below)
    )
