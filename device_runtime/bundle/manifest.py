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
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device_runtime.bundle import fields, strict_json
from device_runtime.bundle.embedding import Embedding
from device_runtime.bundle.fields import FileBytes, Line, Sha256
from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.paths import link_stays_inside, safe_path, tree_problems
from device_runtime.bundle.quantization import QuantizationFacts, Struct
from device_runtime.bundle.reads import Reads
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.bundle.signature import load_public_key
from device_runtime.bundle.speech import Speech
from device_runtime.bundle.vision import Vision
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
EMBEDDING_FOLDER = f"{MODEL_FOLDER}/embedding"
"""Folder of a release with the embedding model, if it has one: model.onnx and tokenizer.json."""
SPEECH_FOLDER = f"{MODEL_FOLDER}/speech"
"""Folder of a release with the speech model, if it has one; ONNX Runtime GenAI opens it."""

MAX_MANIFEST_BYTES = 4 << 20
MAX_RECORDS = 20_000
MAX_TRUST = 16
"""Keys that a manifest may add to the device's keyring, and that it may revoke."""
MAX_INSTALLED_BYTES = 1 << 38
MAX_RATIO = 200
"""Content of a file by its stored bytes. Real files stay below 30, so the work that a bundle causes
is bounded by its own length; the host stores what is over it uncompressed."""
FREE_BYTES = 1 << 16
"""Content below which the ratio does not matter."""

Component = Literal["runtime", "model", "tokenizer"]


class Blob(Struct, frozen=True, kw_only=True):
    """The stored bytes of a file.

    Attributes:
        sha256: digest of the stored bytes; the blob's name in the bundle.
        size: length of the stored bytes.
        compression: compression of the stored bytes.
    """

    sha256: Sha256
    size: FileBytes
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

    path: fields.Path
    component: Component
    mode: fields.Mode
    size: FileBytes = 0
    sha256: fields.NoSha256 = ""
    blob: Blob | None = None
    link: fields.Path | None = None


class Settings(Struct, frozen=True, kw_only=True):
    """The profile's defaults for serving; the device can override each.

    Attributes:
        listen: `host:port` of the HTTP server.
        threads: threads of the inference process; 0 for one a core.
        max_tokens: default maximum length of an answer, tokens.
        status_interval_s: interval of MQTT telemetry messages, seconds.
        min_tokens_per_s: slowest decode speed at which a release counts as good, tokens/s.
    """

    listen: fields.Address
    threads: fields.Threads
    max_tokens: fields.MaxTokens
    status_interval_s: fields.Interval
    min_tokens_per_s: fields.TokensPerSecond = 0.0


class Probe(Struct, frozen=True, kw_only=True):
    """A prompt with a known answer, from the build: the health check of a new release.

    Attributes:
        prompt: text to continue, without a chat template.
        tokens: ids of the greedy continuation, as far as the kernels of all processors agree on it.
    """

    prompt: fields.Text
    tokens: Annotated[tuple[fields.Token, ...], Meta(max_length=4096)]


class Trust(Struct, frozen=True, kw_only=True):
    """Changes to the device's keyring, effective once the release has started successfully.

    Attributes:
        add: public keys to trust, PEM (SubjectPublicKeyInfo).
        revoke: ids of keys to stop trusting for good.
    """

    add: Annotated[tuple[fields.Pem, ...], Meta(max_length=MAX_TRUST)] = ()
    revoke: Annotated[tuple[Sha256, ...], Meta(max_length=MAX_TRUST)] = ()


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
        reasoning: how the model thinks; None for a model that does not.
        embedding: the embedding model; None without one. `memory_bytes` includes it.
        vision: how the model sees; None for a model that takes text alone.
        speech: the speech model; None without one. `memory_bytes` includes it.
        reads: what a decode step reads from memory; None if the build did not record it.
        built_with: versions of the programs that built the bundle.
        sbom: stored bytes of the SBOM.
        records: all files and links of the release.
    """

    format: int
    id: fields.Id
    version: fields.Version
    sequence: fields.Sequence
    profile: fields.Name
    compatible: Annotated[tuple[fields.Compatible, ...], Meta(min_length=1, max_length=32)]
    kit: KitFacts | None
    model: ModelFacts
    quantization: QuantizationFacts
    context_length: fields.ContextLength
    memory_bytes: fields.Bytes
    settings: Settings
    built_with: Annotated[dict[Line, Line], Meta(max_length=64)]
    sbom: Blob
    records: Annotated[tuple[Record, ...], Meta(max_length=MAX_RECORDS)]
    probe: Probe | None = None
    trust: Trust = Trust()
    reasoning: Reasoning | None = None
    embedding: Embedding | None = None
    vision: Vision | None = None
    speech: Speech | None = None
    reads: Reads | None = None

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

    Checks, in this order: size, `strict_json`, format version, types with their bounds, then the
    rules of `problems`.

    Raises:
        BundleError: the manifest is not valid; the message lists the problems.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes", hint=DAMAGED)
    strict_json.check(data, "the manifest")
    try:
        check_format(msgspec.json.decode(data, type=_Version).format)
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
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
    """List the rules that a manifest breaks and no type can express, one sentence each."""
    broken = []
    if manifest.sbom.compression != "none":
        broken.append("the SBOM is compressed")
    if manifest.installed_size > MAX_INSTALLED_BYTES:
        broken.append(f"the release is larger than {MAX_INSTALLED_BYTES} bytes")
    for number, pem in enumerate(manifest.trust.add):
        try:
            load_public_key(pem.encode())
        except ValueError as error:
            broken.append(f"trust.add[{number}] is {error}")
    for record in manifest.records:
        broken += _record_problems(record)
    if broken:
        return broken
    broken += tree_problems([record.path for record in manifest.records])
    stored: dict[Sha256, tuple[Blob, Sha256, int]] = {}
    for record in manifest.records:
        if record.blob is not None:
            described = (record.blob, record.sha256, record.size)
            if stored.setdefault(record.blob.sha256, described) != described:
                broken.append(f"{record.path}: its blob has two descriptions that differ")
    if manifest.kit is not None and not any(
        record.path == RUNTIME_ENTRY and record.blob is not None and record.mode == 0o755
        for record in manifest.records
    ):
        broken.append(f"{RUNTIME_ENTRY} is missing or not a program")
    return broken


def is_version(text: str) -> bool:
    """Return whether a text is valid as a bundle's version."""
    return re.search(fields.VERSION, text) is not None


def dense(size: int, stored: int) -> bool:
    """Return whether a file of a size may be stored in so few bytes."""
    return size <= max(FREE_BYTES, MAX_RATIO * stored)


def _record_problems(record: Record) -> list[str]:
    where = repr(record.path)
    broken = []
    if not safe_path(record.path):
        broken.append(f"{where} is not a plain relative path")
    elif not record.path.startswith(("runtime/", f"{MODEL_FOLDER}/")):
        broken.append(f"{where} is neither below runtime/ nor below {MODEL_FOLDER}/")
    if record.link is not None:
        if record.blob is not None or record.size or record.sha256:
            broken.append(f"{where} is a link and has content")
        if record.mode != 0o777:
            broken.append(f"{where} is a link and has mode {record.mode:o}")
        if not link_stays_inside(record.path, record.link):
            broken.append(f"{where} links out of the release")
        return broken
    if record.mode not in (0o644, 0o755):
        broken.append(f"{where} has mode {record.mode:o}")
    blob = record.blob
    if blob is None or not record.sha256:
        broken.append(f"{where} has no content")
    elif blob.compression == "none":
        if (blob.sha256, blob.size) != (record.sha256, record.size):
            broken.append(f"{where} is stored uncompressed but its blob differs")
    elif not dense(record.size, blob.size):
        broken.append(f"{where} is {record.size} bytes from a blob of {blob.size}")
    return broken
