"""A registry that lies, is damaged or busy: refused with a clear error, or tried again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import RegistryError
from device_runtime.errors import ResourceError as DeviceResourceError
from device_runtime.update.registry import transport
from packager.errors import ResourceError
from packager.registry.access import Access
from packager.registry.pull import pull
from packager.registry.push import push
from tests.support.bundles import digest, draft
from tests.support.commands import edgepack, refused
from tests.support.cutter import cutting
from tests.support.keys import ed25519_key
from tests.support.registries import FakeRegistry, Request, fake_registry

MIB = 1 << 20
WEIGHTS = bytes(range(256)) * (16 << 10)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().with_file("model/weights.data", WEIGHTS).write(tmp_path / "b.epk")


@pytest.fixture
def registry(bundle: Path, own_cache: Path) -> Iterator[FakeRegistry]:
    """A registry with the bundle under the tag `1`."""
    with fake_registry() as running:
        push(bundle, f"{running.url}:1", Access())
        running.requests.clear()
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr(f"{transport.__name__}.time.sleep", pauses.append)
    return pauses


def refuses(registry: FakeRegistry, tmp_path: Path, match: str, tag: str = ":1") -> None:
    with pytest.raises(RegistryError, match=match) as caught:
        pull(f"{registry.url}{tag}", tmp_path / "pulled.epk", Access())
    assert caught.value.hint
    assert not (tmp_path / "pulled.epk").exists()


def oci_manifest(registry: FakeRegistry) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(registry.manifests["1"][1])
    return manifest


def change(registry: FakeRegistry, manifest: dict[str, Any]) -> None:
    kind, _ = registry.manifests["1"]
    registry.manifests["1"] = (kind, json.dumps(manifest).encode())


def test_a_manifest_with_another_digest(registry: FakeRegistry, tmp_path: Path) -> None:
    name = f"sha256:{digest(registry.manifests['1'][1])}"
    manifest = oci_manifest(registry) | {"annotations": {}}
    registry.manifests[name] = (registry.manifests["1"][0], json.dumps(manifest).encode())
    refuses(registry, tmp_path, "sent a manifest with the digest", f"@{name}")


def test_blobs_with_other_bytes(registry: FakeRegistry, tmp_path: Path) -> None:
    name = f"sha256:{digest(WEIGHTS)}"
    registry.blobs[name] = b"x" + WEIGHTS[1:]
    refuses(registry, tmp_path, f"other bytes than {name}")
    assert (
        sum(f"GET /v2/team/bundle/blobs/{name}" in " ".join(r[:2]) for r in registry.requests) == 2
    )
    assert not list((tmp_path / "cache/pulled").rglob("*.part"))


def test_a_truncated_blob(registry: FakeRegistry, tmp_path: Path, pauses: list[float]) -> None:
    registry.blobs[f"sha256:{digest(WEIGHTS)}"] = WEIGHTS[:-1]
    refuses(registry, tmp_path, "closed the connection early; given up after 7 failures")
    assert pauses == [0.5, 1, 2, 4, 8, 16]


def test_a_blob_with_more_bytes_than_the_manifest_says(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.blobs[f"sha256:{digest(WEIGHTS)}"] = WEIGHTS + bytes(8 * MIB)
    refuses(registry, tmp_path, f"more than the {len(WEIGHTS)} bytes")
    stored = sum(path.stat().st_size for path in (tmp_path / "cache/pulled").rglob("*.part"))
    assert stored <= len(WEIGHTS)


def test_a_bundle_manifest_with_more_bytes(registry: FakeRegistry, tmp_path: Path) -> None:
    layer = oci_manifest(registry)["layers"][0]
    registry.blobs[layer["digest"]] += b" "
    refuses(registry, tmp_path, "more than")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("size", -1, "without a valid digest and size"),
        ("size", 1 << 80, "too large layers"),
        ("digest", "sha256:../../../etc/passwd", "without a valid digest and size"),
        ("digest", "sha512:" + "0" * 128, "without a valid digest and size"),
        ("size", 5, "more than 5 bytes"),
        ("size", 5 << 20, "too large layers"),
    ],
)
def test_descriptors(
    registry: FakeRegistry, tmp_path: Path, field: str, value: Any, match: str
) -> None:
    manifest = oci_manifest(registry)
    manifest["layers"][0][field] = value
    change(registry, manifest)
    refuses(registry, tmp_path, match)


def test_a_blob_that_is_not_a_layer(registry: FakeRegistry, tmp_path: Path) -> None:
    manifest = oci_manifest(registry)
    del manifest["layers"][-1]
    change(registry, manifest)
    refuses(registry, tmp_path, "does not list blob")


def test_two_manifests_of_a_bundle(registry: FakeRegistry, tmp_path: Path) -> None:
    manifest = oci_manifest(registry)
    manifest["layers"].append(manifest["layers"][0])
    change(registry, manifest)
    refuses(registry, tmp_path, "several")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"{", "is not valid"),
        (b"[" * 300_000, "is not valid"),
        (b" " * (5 << 20), "more than 4194304 bytes"),
        (b'{"schemaVersion": 2, "layers": []}', "is not valid"),
        (
            b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",'
            b'"config": {"mediaType": "x", "digest": "y", "size": 1}, "layers": []}',
            "is not a bundle",
        ),
    ],
)
def test_other_manifests(registry: FakeRegistry, tmp_path: Path, data: bytes, match: str) -> None:
    registry.manifests["1"] = (registry.manifests["1"][0], data)
    refuses(registry, tmp_path, match)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "wants a login"), (403, "refuses access"), (404, "is not in"), (418, "status 418")],
)
def test_a_refusal_is_final(registry: FakeRegistry, status: int, words: str) -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "the reason"}]}'
    registry.answer = lambda request: request.reply(status, body)
    outcome = edgepack("pull", f"{registry.url}:1")
    refused(outcome, 15, words, "the reason")
    assert "next try" not in outcome.err
    assert len(registry.requests) == 1


def test_a_busy_registry_is_asked_again_when_it_says(
    registry: FakeRegistry, tmp_path: Path, bundle: Path, pauses: list[float]
) -> None:
    left = [503, 429]

    def answer(request: Request) -> bool:
        if not left:
            return False
        return request.reply(left.pop(0), Retry_After="7")

    registry.answer = answer
    pull(f"{registry.url}:1", tmp_path / "pulled.epk", Access())
    assert pauses == [7, 7]
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


def test_a_registry_that_stays_busy_is_given_up(
    registry: FakeRegistry, tmp_path: Path, pauses: list[float]
) -> None:
    registry.answer = lambda request: request.reply(500)
    refuses(registry, tmp_path, "status 500; given up after 7 failures in a row")
    assert pauses == [0.5, 1, 2, 4, 8, 16]


def test_a_pause_of_hours_is_not_made(
    registry: FakeRegistry, tmp_path: Path, pauses: list[float]
) -> None:
    registry.answer = lambda request: request.reply(429, Retry_After="99999")
    refuses(registry, tmp_path, "given up")
    assert pauses == []


def test_a_registry_without_ranges_sends_a_blob_again_from_its_beginning(
    registry: FakeRegistry, tmp_path: Path, bundle: Path, pauses: list[float]
) -> None:
    def answer(request: Request) -> bool:
        del request.headers["Range"]
        return False

    registry.answer = answer
    with cutting(registry.port, cuts=1, after=2 * MIB) as proxy:
        place = registry.url.replace(str(registry.port), str(proxy.port))
        pull(f"{place}:1", tmp_path / "pulled.epk", Access())
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()
    assert len(pauses) == 1


def test_a_part_that_a_power_cut_damaged_is_downloaded_again(
    registry: FakeRegistry, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transport, "RETRIES", 0)
        with cutting(registry.port, cuts=1, after=2 * MIB) as proxy:
            place = registry.url.replace(str(registry.port), str(proxy.port))
            with pytest.raises(RegistryError, match="given up"):
                pull(f"{place}:1", tmp_path / "pulled.epk", Access())
    (part,) = (tmp_path / "cache/pulled").rglob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    pull(f"{registry.url}:1", tmp_path / "pulled.epk", Access())
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


def test_a_blob_that_was_damaged_on_this_disk_is_downloaded_again(
    registry: FakeRegistry, tmp_path: Path, bundle: Path
) -> None:
    weights = registry.blobs.pop(f"sha256:{digest(WEIGHTS)}")
    refuses(registry, tmp_path, "is not in the registry")
    registry.blobs[f"sha256:{digest(WEIGHTS)}"] = weights
    stored = sorted(path for path in (tmp_path / "cache/pulled").rglob("*") if path.is_file())
    damaged = next(path for path in stored if path.name == digest(bytes(range(256)) * 20))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    pull(f"{registry.url}:1", tmp_path / "pulled.epk", Access())
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


def test_a_disk_that_is_too_small(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    full = os.statvfs_result([*disk[:4], 0, *disk[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(DeviceResourceError, match="0 MiB free; the download needs 4 MiB"):
        pull(f"{registry.url}:1", tmp_path / "pulled.epk", Access())


def test_a_place_that_cannot_be_written_to(registry: FakeRegistry) -> None:
    outcome = edgepack("pull", f"{registry.url}:1", "-o", "/proc/nowhere/b.epk")
    refused(outcome, ResourceError.exit_code, "/proc/nowhere")


def test_an_upload_that_is_cut_within_a_piece_goes_on_there(
    bundle: Path, own_cache: Path, pauses: list[float]
) -> None:
    with fake_registry() as registry:
        with cutting(registry.port, cuts=3, after=MIB, upload=True) as proxy:
            place = registry.url.replace(str(registry.port), str(proxy.port))
            push(bundle, f"{place}:1", Access())
        assert proxy.cuts == 0
        assert proxy.moved < 1.05 * bundle.stat().st_size
        assert registry.blobs[f"sha256:{digest(WEIGHTS)}"] == WEIGHTS
        assert len(pauses) == 3
        assert not list((own_cache / "uploads").iterdir())


def test_a_later_command_goes_on_with_an_upload(
    bundle: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        fake_registry() as registry,
        cutting(registry.port, cuts=1, after=2 * MIB, upload=True) as proxy,
    ):
        place = registry.url.replace(str(registry.port), str(proxy.port))
        with monkeypatch.context() as patch:
            patch.setattr(transport, "RETRIES", 0)
            with pytest.raises(RegistryError, match="given up"):
                push(bundle, f"{place}:1", Access())
        push(bundle, f"{place}:1", Access())
        assert proxy.moved < 1.05 * bundle.stat().st_size
        assert registry.blobs[f"sha256:{digest(WEIGHTS)}"] == WEIGHTS


def test_signature_and_sbom_are_referrers_too(registry: FakeRegistry, tmp_path: Path) -> None:
    """With the referrers API there is no tag for them. A pull does not need them."""
    bundle = draft().signed(ed25519_key()).write(tmp_path / "signed.epk")
    subject = push(bundle, f"{registry.url}:signed", Access()).reference.partition("@")[2]
    tags = {name for name in registry.manifests if not name.startswith("sha256:")}
    assert tags == {"1", "signed"}
    manifests = [json.loads(data) for _, data in registry.manifests.values()]
    referrers = [m for m in manifests if m.get("subject", {}).get("digest") == subject]
    assert {referrer["artifactType"] for referrer in referrers} == {
        "application/vnd.cyclonedx+json",
        "application/vnd.dsse.envelope.v1+json",
    }
    for name in [name for name, (_, data) in registry.manifests.items() if b'"subject"' in data]:
        del registry.manifests[name]
    pull(f"{registry.url}@{subject}", tmp_path / "pulled.epk", Access())
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


def test_types_of_modelpack(registry: FakeRegistry) -> None:
    manifest = oci_manifest(registry)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"].removeprefix(
            "application/vnd."
        )
        for layer in manifest["layers"]
    }
    assert kinds == {
        "manifest.json": "edgepack.manifest+json",
        "sbom.cdx.json": "cyclonedx+json",
        "runtime/edgepack-runtime": "cncf.model.code.v1.raw+zstd",
        "model/model.onnx.data": "cncf.model.weight.v1.raw",
        "model/tokenizer.json": "cncf.model.weight.config.v1.raw+zstd",
        "model/weights.data": "cncf.model.weight.v1.raw",
    }
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    assert config["descriptor"]["name"] == "tiny"
    assert config["config"]["paramSize"] == "1.0K"
    blobs = [layer for layer in manifest["layers"] if "cncf" in layer["mediaType"]]
    assert len(config["modelfs"]["diffIds"]) == len(blobs)


def test_a_push_needs_a_tag(bundle: Path) -> None:
    outcome = edgepack("push", bundle, f"oci://127.0.0.1:1/a@sha256:{'0' * 64}")
    refused(outcome, 15, "Push to a tag")


def test_a_damaged_bundle_is_not_pushed(bundle: Path, own_cache: Path) -> None:
    data = bytearray(bundle.read_bytes())
    data[-1500] ^= 1
    bundle.write_bytes(data)
    with fake_registry() as registry:
        refused(edgepack("push", bundle, f"{registry.url}:1"), 7, "damaged")
        assert registry.requests == []
