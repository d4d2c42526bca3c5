"""The schema of a bundle. No I/O: bytes to structs, and structs to bytes.

A bundle is an uncompressed POSIX tar, read strictly in this order:

1. `edgepack-bundle`: the format marker, `edgepack-bundle 2 sha256:<digest of the manifest>\\n`;
2. `manifest.json`: a `Manifest`;
3. `manifest.sig`: a DSSE envelope over the manifest's bytes; empty in an unsigned bundle;
4. `sbom.cdx.json`: CycloneDX; the manifest has its digest;
5. `blobs/sha256/<hex>`: the stored bytes of the records, each blob once, in the order in which
   the records first refer to them.

All that is needed to decide whether to install precedes the data.
"""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from device_runtime.bundle.quantization import QuantizationFacts, Struct
from device_runtime.bundle.signature import is_key_id, load_public_key
from device_runtime.errors import BundleError

FORMAT = 2
"""Major version of the format; a reader refuses any other."""

MARKER_NAME = "edgepack-bundle"
MARKER_BYTES = len(f"{MARKER_NAME} {FORMAT} sha256:\n") + 64
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
MAX_TRUST = 16
"""Keys that a manifest may add to the device's keyring, and that it may revoke."""

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
        compression: compression of the stored bytes.
    """

    sha256: Sha256
    size: int
    compression: Literal["none", "zstd"] = "none"


class Record(Struct, frozen=True, kw_only=True):
    """One file or symbolic link of a release.

    Attributes:
        path: path below the release's folder, POSIX, without `..`.
        component: the component that the file belongs to.
        mode: permission bits (files: 0o644 or 0o755; links: 0o777).
        size: length of the content in bytes (0 for a link).
        sha256: digest of the content (empty for a link).
        blob: the file's stored bytes (None for a link).
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
    """Requirements of a runtime for NVIDIA GPUs that the device must meet: not in the bundle.

    Attributes:
        version: major version of CUDA, `13`.
        jetpack: oldest JetPack (the system of Jetson boards) with that CUDA version, `7`.
        libraries: sonames that the dynamic linker must find, `libcudart.so.13`.
        gpus: compute capabilities that the runtime has machine code for: `8.9`, and `9.0+` for
            9.0 and all later ones.
    """

    version: str
    jetpack: str
    libraries: tuple[str, ...]
    gpus: tuple[str, ...]

    def serves(self, gpu: str) -> bool:
        """Return whether the runtime has code for a GPU of that compute capability, `8.7`.

        Machine code is for one capability. Later ones of the same generation can run it on
        discrete GPUs, never on the GPU of a Jetson.
        """
        return any(
            float(gpu) >= float(target[:-1]) if target.endswith("+") else gpu == target
            for target in self.gpus
        )


class KitFacts(Struct, frozen=True, kw_only=True):
    """The frozen runtime in a bundle.

    Attributes:
        name: name of the kit, for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` reports it.
        digest: digest of everything the kit was built from.
        min_glibc: oldest version of the C library that it runs with, `2.36`.
        cuda: requirements for its GPU; None if it uses no GPU.
        cpu: features that its libraries need of the processor, as /proc/cpuinfo names them.
    """

    name: str
    machine: str
    digest: Sha256
    min_glibc: str
    cuda: CudaFacts | None = None
    cpu: tuple[str, ...] = ()


class ModelFacts(Struct, frozen=True, kw_only=True):
    """The model in a bundle.

    Attributes:
        name: name of the model, from the user or the catalog.
        source: origin of the model, without a path of the host.
        source_sha256: digest of the source's files.
        architecture: architecture as the source names it, `LlamaForCausalLM`.
        parameters: number of weights; 0 if not known.
        license: SPDX expression; empty if not known.
    """

    name: str
    source: str
    source_sha256: Sha256
    architecture: str
    parameters: int
    license: str


class Settings(Struct, frozen=True, kw_only=True):
    """The profile's defaults for serving; the device can override each.

    Attributes:
        listen: `host:port` of the HTTP server.
        threads: threads of the inference process; 0 for ONNX Runtime's default.
        max_tokens: default maximum length of an answer, tokens.
        status_interval_s: interval of MQTT telemetry messages, seconds.
        min_tokens_per_s: slowest decode speed at which a release counts as good, tokens/s.
    """

    listen: str
    threads: int
    max_tokens: int
    status_interval_s: float
    min_tokens_per_s: float = 0.0


class Probe(Struct, frozen=True, kw_only=True):
    """A prompt with a known answer, from the build: the health check of a new release.

    Attributes:
        prompt: text to continue, without a chat template.
        tokens: ids of the greedy continuation, as far as the kernels of all processors agree on it.
    """

    prompt: str
    tokens: tuple[int, ...]


class Trust(Struct, frozen=True, kw_only=True):
    """Changes to the device's keyring, effective once the release has started successfully.

    Attributes:
        add: public keys to trust, PEM (SubjectPublicKeyInfo).
        revoke: ids of keys to stop trusting for good.
    """

    add: tuple[str, ...] = ()
    revoke: tuple[Sha256, ...] = ()


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything a device needs to know about a bundle before it reads the data.

    Attributes:
        format: major version of the format.
        id: name of this line of bundles; the same in every update.
        version: human-readable version of the bundle.
        sequence: number that grows with each release of an id; a device refuses to go back.
        profile: name of the profile that the bundle was built with.
        compatible: hardware that the bundle is for, most specific first: names of boards and chips
            as in a device tree, `raspberrypi,5-model-b`, or `linux-aarch64` for any machine of an
            architecture. A device refuses the bundle unless one of them matches.
        kit: the frozen runtime; None in a model-only bundle.
        model: the model.
        quantization: how the model was quantized.
        context_length: maximum length of prompt and answer together, tokens; the KV cache is sized
            for it.
        memory_bytes: estimate of the resident memory while serving, bytes.
        settings: defaults for serving.
        probe: check of the installed model; None if the build machine could not run it.
        trust: changes to the device's keyring.
        built_with: versions of the programs that built the bundle.
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
    probe: Probe | None = None
    trust: Trust = Trust()

    @property
    def blobs(self) -> dict[Sha256, Blob]:
        """The blobs of the bundle by digest, in the order in which they are stored."""
        return {r.blob.sha256: r.blob for r in self.records if r.blob is not None}

    @property
    def installed_size(self) -> int:
        """Size of the release's files, bytes."""
        return sum(record.size for record in self.records)


def marker(manifest_bytes: bytes) -> bytes:
    """Return the format marker of a bundle; with the digest, an unsigned one notices bit rot."""
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    return f"{MARKER_NAME} {FORMAT} sha256:{digest}\n".encode()


def read_marker(data: bytes) -> Sha256:
    """Return the digest of the manifest from a format marker.

    Raises:
        BundleError: it is damaged, or of another format version.
    """
    name, _, rest = data.decode("ascii", "replace").strip().partition(" ")
    version = rest.partition(" ")[0]
    if name != MARKER_NAME or not (version.isdecimal() and len(version) <= 4):
        raise BundleError("not an edgepack bundle: its format marker is wrong", hint=DAMAGED)
    check_format(int(version))
    form = re.fullmatch(rb"%s %d sha256:([0-9a-f]{64})\n" % (MARKER_NAME.encode(), FORMAT), data)
    if form is None:
        raise BundleError("the format marker is damaged", hint=DAMAGED)
    return form[1].decode()


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest as JSON: the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read and check a manifest; nothing in it is trusted.

    Checks, in this order: size, JSON and types, format version, then all rules of `problems`.

    Raises:
        BundleError: the manifest is not valid; the message lists the problems.
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
    broken = problems(manifest)
    if broken:
        raise BundleError("the manifest is not valid: " + "; ".join(broken[:10]), hint=DAMAGED)
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
    """List every rule that a well-typed manifest breaks, one sentence each."""
    broken = []
    if not _ID.fullmatch(manifest.id):
        broken.append(f"id {manifest.id!r} is not lower-case letters, digits, '.', '_' and '-'")
    if not is_version(manifest.version):
        broken.append(f"version {manifest.version!r} is not a version")
    if manifest.sequence < 0:
        broken.append("sequence is negative")
    if manifest.context_length < 1:
        broken.append("context_length is not positive")
    if len(manifest.records) > MAX_RECORDS:
        broken.append(f"more than {MAX_RECORDS} records")
        return broken
    broken += _blob_problems("sbom", manifest.sbom)
    seen: dict[str, Record] = {}
    for record in manifest.records:
        broken += _record_problems(record)
        if record.path in seen:
            broken.append(f"{record.path} is a duplicate")
        seen[record.path] = record
    for path in seen:
        for parent in PurePosixPath(path).parents:
            if str(parent) in seen:
                broken.append(f"{path} is below {parent}, which is not a folder")
    stored: dict[Sha256, tuple[Blob, Sha256, int]] = {}
    for record in manifest.records:
        if record.blob is not None:
            described = (record.blob, record.sha256, record.size)
            if stored.setdefault(record.blob.sha256, described) != described:
                broken.append(f"{record.path}: its blob has two descriptions that differ")
    if manifest.kit is not None:
        entry = seen.get(RUNTIME_ENTRY)
        if not _GLIBC.fullmatch(manifest.kit.min_glibc):
            broken.append(f"kit.min_glibc {manifest.kit.min_glibc!r} is not a version")
        if entry is None or entry.blob is None or entry.mode != 0o755:
            broken.append(f"{RUNTIME_ENTRY} is missing or not a program")
    return broken + _trust_problems(manifest.trust)


def is_version(text: str) -> bool:
    """Return whether a text is valid as a bundle's version."""
    return _VERSION.fullmatch(text) is not None


def _record_problems(record: Record) -> list[str]:
    where = repr(record.path)
    broken = []
    if not safe_path(record.path):
        broken.append(f"{where} is not a plain relative path")
    if record.link is not None:
        if record.blob is not None or record.size or record.sha256:
            broken.append(f"{where} is a link and has content")
        if not _link_stays_inside(record.path, record.link):
            broken.append(f"{where} links out of the release")
        return broken
    if record.mode not in (0o644, 0o755):
        broken.append(f"{where} has mode {record.mode:o}")
    if record.blob is None:
        broken.append(f"{where} has no content")
        return broken
    if not _SHA256.fullmatch(record.sha256) or record.size < 0:
        broken.append(f"{where} has no valid size and sha256")
    if record.blob.compression == "none" and (
        record.blob.sha256 != record.sha256 or record.blob.size != record.size
    ):
        broken.append(f"{where} is stored uncompressed but its blob differs")
    return broken + _blob_problems(where, record.blob)


def _blob_problems(where: str, blob: Blob) -> list[str]:
    if not _SHA256.fullmatch(blob.sha256) or blob.size < 0:
        return [f"{where} has no valid blob size and sha256"]
    return []


def _trust_problems(trust: Trust) -> list[str]:
    if max(len(trust.add), len(trust.revoke)) > MAX_TRUST:
        return [f"trust has more than {MAX_TRUST} keys"]
    broken = []
    for number, pem in enumerate(trust.add):
        try:
            load_public_key(pem.encode())
        except ValueError as error:
            broken.append(f"trust.add[{number}] is {error}")
    if not all(map(is_key_id, trust.revoke)):
        broken.append("trust.revoke has a text that is not a key id")
    return broken


def safe_path(path: str) -> bool:
    """Return whether a path is relative, normalized, printable and stays below its folder."""
    return (
        0 < len(path) <= 512
        and path.isprintable()
        and "\\" not in path
        and all(0 < len(part) <= 255 and part not in (".", "..") for part in path.split("/"))
    )


def _link_stays_inside(path: str, target: str) -> bool:
    """Return whether a relative link stays in the release, whatever the other links are.

    `..` may only lead the target: there it climbs real folders, since no record lies below a
    link. After a name it could climb from wherever that name's own link leads.
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
