"""Push to and pull from Debian's docker-registry, whole, in pieces and with interruptions."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from device_runtime.errors import RegistryError
from device_runtime.update.registry import transport
from packager import kit
from packager.registry.access import Access
from packager.registry.kits import push as push_kit
from packager.registry.pull import pull
from packager.registry.push import push
from tests.support import certificates
from tests.support.bundles import SBOM, draft
from tests.support.commands import edgepack, refused
from tests.support.cutter import cutting
from tests.support.kits import NAME, stored
from tests.support.registries import PASSWORD, USERNAME, RealRegistry, docker_registry

MIB = 1 << 20
MODEL = random.Random(1).randbytes(24 * MIB)

pytestmark = pytest.mark.requires("docker-registry")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().with_file("model/weights.data", MODEL).write(tmp_path / "b.epk")


@pytest.mark.usefixtures("own_cache")
def test_what_is_pulled_is_what_was_pushed(
    registry: RealRegistry, bundle: Path, tmp_path: Path
) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/round-trip"
    pushed = edgepack("push", bundle, f"{place}:1.0", "--json")
    assert pushed.status == 0, pushed.err
    reference = json.loads(pushed.out)["reference"]
    assert reference.startswith(f"{place}@sha256:")
    for number, source in enumerate((f"{place}:1.0", reference)):
        target = tmp_path / f"{number}.epk"
        pulled = edgepack("pull", source, "-o", target, "--json")
        assert pulled.status == 0, pulled.err
        assert json.loads(pulled.out)["reference"] == reference
        assert target.read_bytes() == bundle.read_bytes()
    assert not list((tmp_path / "cache/pulled").iterdir())
    again = push(bundle, f"{place}:1.0", Access())
    assert (again.reference, again.sent) == (reference, 0)


@pytest.mark.usefixtures("own_cache")
def test_an_update_sends_only_the_blobs_that_are_new(
    registry: RealRegistry, bundle: Path, tmp_path: Path
) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/update"
    first = push(bundle, f"{place}:1", Access())
    assert first.sent == first.size > len(MODEL)
    changed = draft().with_file("model/weights.data", MODEL).replaced(version="2.0.0")
    update = changed.with_file("model/extra", b"x" * 1000).write(tmp_path / "2.epk")
    with cutting(registry.port, cuts=0, after=0, upload=True) as proxy:
        second = push(update, f"oci://127.0.0.1:{proxy.port}/team/update:2", Access())
    assert 1000 < second.sent < 20_000
    assert proxy.moved < 40_000


@pytest.mark.usefixtures("own_cache")
def test_a_download_that_is_cut_three_times_moves_each_byte_about_once(
    registry: RealRegistry, bundle: Path, tmp_path: Path
) -> None:
    push(bundle, f"oci://127.0.0.1:{registry.port}/team/cut:1", Access())
    with cutting(registry.port, cuts=3, after=6 * MIB) as proxy:
        place = f"oci://127.0.0.1:{proxy.port}/team/cut:1"
        pull(place, tmp_path / "pulled.epk", Access())
    assert proxy.cuts == 0
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()
    moved = proxy.moved / bundle.stat().st_size
    print(f"{proxy.moved} bytes moved for a bundle of {bundle.stat().st_size}: {moved:.3f}")
    assert moved < 1.05


def test_a_download_goes_on_where_an_earlier_command_ended(
    registry: RealRegistry,
    bundle: Path,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = push(bundle, f"oci://127.0.0.1:{registry.port}/team/later:1", Access()).reference
    monkeypatch.setattr(transport, "RETRIES", 0)
    with cutting(registry.port, cuts=1, after=6 * MIB) as proxy:
        place = reference.replace(str(registry.port), str(proxy.port))
        with pytest.raises(RegistryError, match="given up") as caught:
            pull(place, tmp_path / "pulled.epk", Access())
    assert "it resumes" in caught.value.hint
    assert not (tmp_path / "pulled.epk").exists()
    stored = sum(path.stat().st_size for path in own_cache.rglob("*.part"))
    assert stored > 5 * MIB
    with cutting(registry.port, cuts=0, after=0) as proxy:
        place = reference.replace(str(registry.port), str(proxy.port))
        pull(place, tmp_path / "pulled.epk", Access())
    assert proxy.moved < bundle.stat().st_size - stored + 100_000
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


@pytest.mark.usefixtures("own_cache")
def test_an_upload_that_is_cut_arrives_whole(
    registry: RealRegistry, bundle: Path, tmp_path: Path
) -> None:
    """docker-registry drops an upload that is cut within a piece: that blob starts over."""
    with cutting(registry.port, cuts=2, after=6 * MIB, upload=True) as proxy:
        push(bundle, f"oci://127.0.0.1:{proxy.port}/team/cut-upload:1", Access())
    assert proxy.cuts == 0
    print(f"{proxy.moved} bytes moved for a bundle of {bundle.stat().st_size}")
    assert proxy.moved < bundle.stat().st_size + 2 * 7 * MIB
    place = f"oci://127.0.0.1:{registry.port}/team/cut-upload:1"
    pull(place, tmp_path / "pulled.epk", Access())
    assert (tmp_path / "pulled.epk").read_bytes() == bundle.read_bytes()


@pytest.mark.usefixtures("own_cache")
def test_referrers_are_listed_under_a_tag_where_the_registry_lacks_the_api(
    registry: RealRegistry, bundle: Path
) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/referrers"
    digest = push(bundle, f"{place}:1", Access()).reference.partition("@")[2]
    push(bundle, f"{place}:again", Access())
    url = f"http://127.0.0.1:{registry.port}/v2/team/referrers"
    kind = "application/vnd.oci.image.index.v1+json"
    tag = digest.replace(":", "-")
    index = httpx2.get(f"{url}/manifests/{tag}", headers={"Accept": kind})
    assert index.headers["Content-Type"] == kind
    (sbom,) = index.json()["manifests"]
    assert sbom["artifactType"] == "application/vnd.cyclonedx+json"
    referrer = httpx2.get(
        f"{url}/manifests/{sbom['digest']}", headers={"Accept": sbom["mediaType"]}
    )
    assert referrer.json()["subject"]["digest"] == digest
    layer = referrer.json()["layers"][0]
    assert httpx2.get(f"{url}/blobs/{layer['digest']}").content == SBOM


@pytest.mark.usefixtures("own_cache")
def test_login_and_a_certificate_of_an_authority_of_our_own(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = certificates.make(tmp_path)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    with docker_registry(tmp_path / "registry", login=True, certificate=own) as running:
        place = f"oci://localhost:{running.port}/team/secret:1"
        trusting = ("--ca-file", own.certificate)
        login = ("--username", USERNAME, "--password-file", password)
        refused(edgepack("push", bundle, place, *login), 15, "certificate", "--ca-file")
        refused(edgepack("push", bundle, place, *trusting), 15, "wants a login", "docker login")
        pushed = edgepack("push", bundle, place, *login, *trusting)
        assert pushed.status == 0, pushed.err
        monkeypatch.setenv("SSL_CERT_FILE", str(own.certificate))
        pulled = edgepack("pull", place, *login, "-o", tmp_path / "pulled.epk")
        assert pulled.status == 0, pulled.err
        password.write_text("wrong\n")
        outcome = edgepack("pull", place, *login, *trusting)
        refused(outcome, 15, "refuses the credentials")
        assert "next try" not in outcome.err
        assert "wrong" not in outcome.err


def test_a_bundle_that_is_not_there(registry: RealRegistry) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/nothing:1"
    outcome = edgepack("pull", place)
    refused(outcome, 15, f"{place} is not in the registry")
    assert "next try" not in outcome.err
    assert len(registry.requests("GET /v2/team/nothing/")) == 1


def test_kit_is_pushed_and_imported(
    registry: RealRegistry, own_cache: Path, tmp_path: Path
) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/kits"
    whole = stored(own_cache)
    first = push_kit(whole, f"{place}:1", Access())
    again = push_kit(whole, f"{place}:1", Access())
    assert (again.reference, again.sent) == (first.reference, 0)
    exported = tmp_path / "kit.tar"
    kit.export(whole, exported)
    for source in (f"{place}:1", first.reference):
        shutil.rmtree(own_cache)
        outcome = edgepack("kit", "import", source)
        assert (outcome.status, outcome.out) == (0, f"imported {NAME}\n"), outcome.err
        kit.export(kit.ensure(NAME), tmp_path / "again.tar")
        assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()
        assert [path.suffix for path in (own_cache / "pulled").iterdir()] == [".lock"]


def test_bundle_is_not_a_kit(registry: RealRegistry, bundle: Path, own_cache: Path) -> None:
    place = f"oci://127.0.0.1:{registry.port}/team/bundle-as-kit:1"
    push(bundle, place, Access())
    refused(edgepack("kit", "import", place), 15, "is not a kit")
    refused(edgepack("kit", "import", place.replace(":1", ":2")), 15, "manifest unknown")
