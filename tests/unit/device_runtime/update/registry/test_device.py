"""A device installs from a registry: only what it lacks, resumed, and only what fits it."""

import base64
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from device_runtime.errors import BundleError, InstallError, RegistryError, ResourceError
from device_runtime.update.preflight import STRICT
from device_runtime.update.registry import transport
from device_runtime.update.registry.device import downloaded
from packager.registry.access import Access
from packager.registry.push import push
from tests.support.bundles import digest, draft
from tests.support.commands import edgepack_runtime, refused
from tests.support.cutter import cutting
from tests.support.keys import ed25519_key
from tests.support.registries import FakeRegistry, Request, fake_registry
from tests.support.targets import ELF_AARCH64, ELF_X86_64, make_root

MIB = 1 << 20
WEIGHTS = bytes(range(256)) * (16 << 10)
BUNDLE = draft().with_file("model/weights.data", WEIGHTS)
UPDATE = BUNDLE.with_file("model/extra", b"x" * 1000).replaced(version="2.0.0", sequence=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


@pytest.fixture
def registry(tmp_path: Path, own_cache: Path) -> Iterator[FakeRegistry]:
    """A registry with a bundle under the tag `1`, and its update under `2`."""
    with fake_registry() as running:
        push(BUNDLE.write(tmp_path / "1.epk"), f"{running.url}:1", Access())
        push(UPDATE.write(tmp_path / "2.epk"), f"{running.url}:2", Access())
        running.requests.clear()
        yield running


def blobs(registry: FakeRegistry) -> set[str]:
    """The blobs of the bundles' manifests that were requested."""
    known = set(BUNDLE.manifest.blobs) | set(UPDATE.manifest.blobs)
    return {request[1].rpartition(":")[2] for request in registry.requests} & known


def current(root: Path) -> str:
    return (root / "var/lib/edgepack/current").readlink().name


def test_a_tag_and_then_an_update_by_its_digest(registry: FakeRegistry, root: Path) -> None:
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root, "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["digest"] == current(root)
    assert digest(WEIGHTS) in blobs(registry)
    registry.requests.clear()
    reference = f"{registry.url}@sha256:{digest(registry.manifests['2'][1])}"
    outcome = edgepack_runtime("install", reference, "--root", root)
    assert outcome.status == 0, outcome.err
    assert blobs(registry) == {digest(b"x" * 1000)}
    release = root / "var/lib/edgepack/releases" / current(root)
    assert (release / "model/weights.data").read_bytes() == WEIGHTS
    assert json.loads((release / "manifest.json").read_bytes())["version"] == "2.0.0"
    assert list((root / "var/lib/edgepack/incoming").iterdir()) == []
    registry.requests.clear()
    assert edgepack_runtime("install", reference, "--root", root).status == 0
    assert blobs(registry) == set()


def test_a_damaged_file_of_another_release_is_downloaded(
    registry: FakeRegistry, root: Path
) -> None:
    assert edgepack_runtime("install", f"{registry.url}:1", "--root", root).status == 0
    release = root / "var/lib/edgepack/releases" / current(root)
    (release / "model/weights.data").write_bytes(bytes(len(WEIGHTS)))
    registry.requests.clear()
    outcome = edgepack_runtime("install", f"{registry.url}:2", "--root", root)
    assert outcome.status == 0, outcome.err
    assert digest(WEIGHTS) in blobs(registry)


def test_a_download_goes_on_after_a_power_cut(
    registry: FakeRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cutting(registry.port, cuts=99, after=2 * MIB) as proxy:
        place = registry.url.replace(str(registry.port), str(proxy.port))
        monkeypatch.setattr(transport, "RETRIES", 0)
        with pytest.raises(RegistryError, match="given up"):
            download(f"{place}:1", root)
    (part,) = (root / "var/lib/edgepack/incoming").rglob("*.part")
    stored = part.stat().st_size
    assert stored > MIB
    with cutting(registry.port, cuts=0, after=0) as proxy:
        place = registry.url.replace(str(registry.port), str(proxy.port))
        assert edgepack_runtime("install", f"{place}:1", "--root", root).status == 0
        assert proxy.moved < len(WEIGHTS) - stored + 50_000


def download(reference: str, root: Path) -> None:
    with downloaded(
        reference,
        root,
        STRICT,
        ca_file=None,
        plain_http=False,
        note=print,
        progress=lambda _: nullcontext(lambda _: None),
    ):
        pass


def test_nothing_is_downloaded_that_does_not_fit(registry: FakeRegistry, tmp_path: Path) -> None:
    other = make_root(tmp_path / "arm", ELF_AARCH64)
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", other)
    refused(outcome, InstallError.exit_code, "is aarch64")
    assert blobs(registry) == set()
    assert not (other / "var").exists()


def test_nothing_is_downloaded_that_no_trusted_key_has_signed(
    registry: FakeRegistry, root: Path, tmp_path: Path
) -> None:
    (root / "etc/edgepack/update.toml").write_text("allow_unsigned = false\n")
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root)
    refused(outcome, InstallError.exit_code, "sign")
    assert blobs(registry) == set()
    key = ed25519_key()
    signed = BUNDLE.signed(key).write(tmp_path / "signed.epk")
    push(signed, f"{registry.url}:signed", Access())
    (tmp_path / "key.pem").write_bytes(key.pem)
    arguments = ("--root", root, "--key", tmp_path / "key.pem")
    outcome = edgepack_runtime("install", f"{registry.url}:signed", *arguments)
    assert outcome.status == 0, outcome.err


def test_a_damaged_blob(registry: FakeRegistry, root: Path) -> None:
    registry.blobs[f"sha256:{digest(WEIGHTS)}"] = bytes(len(WEIGHTS))
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root)
    refused(outcome, RegistryError.exit_code, "other bytes than")
    assert not (root / "var/lib/edgepack/current").exists()


def test_the_device_s_own_login(registry: FakeRegistry, root: Path) -> None:
    login = base64.b64encode(b"device:secret").decode()

    def answer(request: Request) -> bool:
        if request.headers.get("Authorization") == f"Basic {login}":
            return False
        return request.reply(401, WWW_Authenticate='Basic realm="x"')

    registry.answer = answer
    place = f"{registry.url}:1"
    outcome = edgepack_runtime("install", place, "--root", root)
    refused(outcome, 15, "wants a login", "/etc/edgepack/registry.json")
    config = root / "etc/edgepack/registry.json"
    config.write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": login}}}))
    config.chmod(0o644)
    refused(edgepack_runtime("install", place, "--root", root), 15, "mode 644", "chmod 600")
    config.chmod(0o600)
    outcome = edgepack_runtime("install", place, "--root", root)
    assert outcome.status == 0, outcome.err


def test_a_login_that_is_a_link_out_of_the_target(
    registry: FakeRegistry, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text("{}")
    (root / "etc/edgepack/registry.json").symlink_to(tmp_path / "mine.json")
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root)
    assert outcome.status == 0, outcome.err  # as if there were none: below the root, there is none


def test_a_bundle_manifest_that_is_not_valid(registry: FakeRegistry, root: Path) -> None:
    kind, data = registry.manifests["1"]
    manifest = json.loads(data)
    broken = b'{"format": 2}'
    layer = manifest["layers"][0]
    layer["digest"], layer["size"] = f"sha256:{digest(broken)}", len(broken)
    registry.blobs[layer["digest"]] = broken
    registry.manifests["1"] = (kind, json.dumps(manifest).encode())
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root)
    refused(outcome, BundleError.exit_code, "not valid")


def test_a_state_that_is_not_a_folder(registry: FakeRegistry, root: Path) -> None:
    (root / "var/lib").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/edgepack").write_text("")
    outcome = edgepack_runtime("install", f"{registry.url}:1", "--root", root)
    refused(outcome, ResourceError.exit_code, "Not a directory")
