"""Kits from a registry that lies: refused with a clear error, and nothing is imported."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import RegistryError
from packager import kit
from packager.errors import KitError, PackagerError
from packager.registry.access import Access
from packager.registry.kits import push, take
from tests.support.bundles import digest
from tests.support.cutter import cutting
from tests.support.kits import NAME, stored
from tests.support.registries import FakeRegistry, fake_registry


@pytest.fixture
def registry(own_cache: Path) -> Iterator[FakeRegistry]:
    """A registry with a kit under the tag `1`."""
    with fake_registry() as running:
        push(stored(own_cache), f"{running.url}:1", Access())
        yield running


def layer(registry: FakeRegistry) -> str:
    name: str = json.loads(registry.manifests["1"][1])["layers"][0]["digest"]
    return name


def refuses(registry: FakeRegistry, error: type[Exception], match: str, tag: str = ":1") -> None:
    with pytest.raises(error, match=match) as caught:
        take(f"{registry.url}{tag}", Access())
    assert isinstance(caught.value, (PackagerError, RegistryError))
    assert caught.value.hint
    assert not any(found.imported for found in kit.installed())


def test_pushed_kit_is_imported(registry: FakeRegistry) -> None:
    assert take(f"{registry.url}:1", Access()).facts.name == NAME


def test_download_that_was_cut_goes_on(registry: FakeRegistry, own_cache: Path) -> None:
    name = layer(registry)
    whole = registry.blobs[name]
    (own_cache / "pulled").mkdir()
    (own_cache / "pulled" / name.removeprefix("sha256:")).write_bytes(whole[:100])
    with cutting(registry.port, cuts=0, after=0) as proxy:
        take(f"oci://127.0.0.1:{proxy.port}/team/bundle:1", Access())
    take(f"{registry.url}:1", Access())


def test_layer_with_other_bytes(registry: FakeRegistry, own_cache: Path) -> None:
    name = layer(registry)
    registry.blobs[name] = b"x" + registry.blobs[name][1:]
    refuses(registry, RegistryError, f"other bytes than {name}")
    assert [path.suffix for path in (own_cache / "pulled").iterdir()] == [".lock"]


def test_layer_that_is_not_a_kit(registry: FakeRegistry) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][0] |= {"digest": f"sha256:{digest(b'text')}", "size": 4}

    registry.blobs[f"sha256:{digest(b'text')}"] = b"text"
    put(registry, change)
    refuses(registry, KitError, "is not a kit")


def test_manifest_with_another_digest(registry: FakeRegistry) -> None:
    name = f"sha256:{digest(registry.manifests['1'][1])}"
    put(registry, lambda manifest: manifest.update(annotations={}))
    registry.manifests[name] = registry.manifests["1"]
    refuses(registry, RegistryError, "sent a manifest with the digest", f"@{name}")


def put(registry: FakeRegistry, change: Callable[[dict[str, Any]], object]) -> None:
    kind, data = registry.manifests["1"]
    manifest = json.loads(data)
    change(manifest)
    registry.manifests["1"] = (kind, json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda manifest: manifest.update(artifactType="application/other"), "is not a kit"),
        (lambda manifest: manifest.update(layers=[]), "is not a kit"),
        (lambda manifest: manifest["layers"].append(manifest["layers"][0]), "is not a kit"),
        (lambda manifest: manifest.pop("config"), "is not valid"),
        (lambda manifest: manifest["layers"][0].update(digest="../../etc"), "valid digest"),
        (lambda manifest: manifest["layers"][0].update(size=-1), "valid digest and size"),
        (lambda manifest: manifest["layers"][0].update(size=1 << 50), "valid digest and size"),
    ],
)
def test_manifest_that_is_not_that_of_a_kit(
    registry: FakeRegistry, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    put(registry, change)
    refuses(registry, RegistryError, word)


def test_push_to_a_digest(registry: FakeRegistry, own_cache: Path) -> None:
    with pytest.raises(RegistryError, match="the digest follows from the content"):
        push(kit.installed()[0], f"{registry.url}@sha256:{'0' * 64}", Access())
