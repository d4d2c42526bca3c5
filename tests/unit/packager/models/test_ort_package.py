"""Model packages of ONNX Runtime as a source: taken, or refused before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.errors import ModelSourceError
from packager.models import ort_package
from packager.models.source import resolve
from packager.recipes.providers import ORT_NAMES, PRECISIONS
from tests.support.model_packages import OPTION, WEIGHTS, change, make, options, write_manifest
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache")

CPU = {"ep": "CPUExecutionProvider"}


@pytest.fixture
def package(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A package whose tokenizer is a shared asset."""
    return make(tiny_onnx, tmp_path / "tiny.ortpackage")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_taken(package: Path, original: Path) -> None:
    source = resolve(str(package))
    assert (source.kind, source.name) == ("onnx", "tiny")
    assert source.origin == "package: tiny.ortpackage"
    taken, expected = files(source.path), files(original)
    configs = [json.loads(content.pop("genai_config.json")) for content in (taken, expected)]
    assert taken == expected
    assert configs[0] == configs[1]
    assert resolve(str(package)).path == source.path


def test_tokenizer_in_a_shared_asset(package: Path, tiny_onnx: Path) -> None:
    is_taken(package, tiny_onnx)


def test_weights_in_a_shared_asset(tiny_onnx: Path, tmp_path: Path) -> None:
    package = make(tiny_onnx, tmp_path / "tiny.ortpackage", WEIGHTS)
    assert not (package / "cpu" / "model.onnx.data").exists()
    is_taken(package, tiny_onnx)


def test_component_and_variant_in_folders_of_their_own(package: Path, tiny_onnx: Path) -> None:
    (package / "models" / "decoder").mkdir(parents=True)
    (package / "cpu").rename(package / "models" / "decoder" / "int4")
    variants = {"cpu": {**CPU, "variant_directory": "int4"}}
    component = package / "models" / "decoder" / "component.json"
    component.write_text(json.dumps({"variants": variants}))
    write_manifest(package, {}, components={"decoder": "models/decoder"})
    is_taken(package, tiny_onnx)


def test_place_of_a_shared_asset_in_the_manifest(package: Path, tiny_onnx: Path) -> None:
    (asset,) = (package / "shared_assets").iterdir()
    asset.rename(package / "tokenizer")
    places = {asset.name.replace("-", ":"): "tokenizer"}
    write_manifest(package, {"cpu": CPU}, shared_assets=places)
    is_taken(package, tiny_onnx)


def test_plain_folder_of_the_tokenizer_in_the_variant(tiny_onnx: Path, tmp_path: Path) -> None:
    package = make(tiny_onnx, tmp_path / "tiny.ortpackage")
    (asset,) = (package / "shared_assets").iterdir()
    asset.rename(package / "cpu" / "tokenizer")
    change(package / "cpu", lambda model: model.update(tokenizer_dir="tokenizer"))
    source = resolve(str(package))
    assert (source.path / "tokenizer.json").read_bytes() == (
        tiny_onnx / "tokenizer.json"
    ).read_bytes()


def test_model_folders_with_a_manifest_of_another_kind(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "model"))
    (folder / "manifest.json").write_text('{"unrelated": true}')
    assert resolve(str(folder)).path == folder


def test_variant_follows_from_the_execution_provider(package: Path) -> None:
    shutil.copytree(package / "cpu", package / "gpu")
    write_manifest(package, {"cpu": CPU, "gpu": {"ep": "CUDAExecutionProvider"}})
    change(package / "gpu", lambda model: model.update(type="phi"))
    assert resolve(str(package)).architecture == "llama"
    assert resolve(str(package), provider="cuda").architecture == "phi"
    # The devices of this provider also run the CPU's graph.
    assert resolve(str(package), provider="webgpu").architecture == "llama"
    with pytest.raises(ModelSourceError, match=r"no variant for .*Dml.* 'cpu' \(CPU") as caught:
        resolve(str(package), provider="dml")
    assert caught.value.hint


def test_each_execution_provider_has_its_name_in_onnx_runtime() -> None:
    assert set(ORT_NAMES) == set(PRECISIONS)


def test_digest_is_that_of_the_specification(tmp_path: Path) -> None:
    """Of the lines `<sha256>  <path>`, in the order of the paths: computed by sha256sum."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    digest = "27cf4fabb62b5bc86b6842969f6f46cf934bd67e8038b04a37808abf1bfb0dc3"
    assert ort_package.digest(tmp_path) == digest


def test_shared_asset_with_another_digest_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    package = make(tiny_onnx, tmp_path / "tiny.ortpackage", digest="a" * 64)
    message = refused(package)
    (asset,) = (package / "shared_assets").iterdir()
    assert "other content than its name says" in message
    assert ort_package.digest(asset) in message


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda root: (root / "manifest.json").write_text("{"), "cannot be read"),
    "deep": (lambda root: (root / "manifest.json").write_text("[" * 100_000), "cannot be read"),
    "not an object": (lambda root: (root / "manifest.json").write_text("[]"), "not a JSON object"),
    "version": (lambda root: write_manifest(root, {}, schema_version="2.0"), "not a model package"),
    "no version": (lambda root: write_manifest(root, {}, schema_version=None), "schema_version is"),
    "no components": (lambda root: write_manifest(root, {}, components={}), "has 0 components"),
    "components": (
        lambda root: write_manifest(root, {}, components={"a": {}, "b": {}}),
        "has 2 components",
    ),
    "no variants": (lambda root: write_manifest(root, {}), "has no variants"),
    "component outside": (
        lambda root: write_manifest(root, {}, components={"a": "../component.json"}),
        "not inside",
    ),
    "component missing": (
        lambda root: write_manifest(root, {}, components={"a": "component.json"}),
        "cannot be read",
    ),
    "variant outside": (lambda root: write_manifest(root, {"../cpu": CPU}), "not inside"),
    "absolute": (
        lambda root: write_manifest(root, {"cpu": {**CPU, "variant_directory": "/etc"}}),
        "not inside",
    ),
    "not a path": (
        lambda root: write_manifest(root, {"cpu": {**CPU, "variant_directory": 1}}),
        "not inside",
    ),
    "zero byte": (lambda root: write_manifest(root, {"c\0pu": CPU}), "not inside"),
    "variant missing": (lambda root: write_manifest(root, {"x": CPU}), "lacks the genai_config"),
    "no provider": (lambda root: write_manifest(root, {"cpu": {}}), "'cpu' (none)"),
    "several": (
        lambda root: write_manifest(root, {"cpu": CPU, "b": {**CPU, "variant_directory": "cpu"}}),
        "several variants for CPUExecutionProvider: 'cpu', 'b'",
    ),
    "link outside": (lambda root: _link(root), "not inside"),
    "asset missing": (
        lambda root: _tokenizer(root, "sha256:" + "0" * 64),
        "lacks the shared asset",
    ),
    "asset name": (lambda root: _tokenizer(root, "sha256:../.."), "not sha256: and 64"),
    "tail": (lambda root: _tokenizer(root, f"{_reference(root)}/../.."), "not inside"),
    "tail missing": (lambda root: _tokenizer(root, f"{_reference(root)}/x"), "lacks the folder"),
    "folder outside": (lambda root: _tokenizer(root, "../shared_assets"), "not inside"),
    "folder of weights outside": (
        lambda root: change(root / "cpu", lambda model: options(model).update({OPTION: "/etc"})),
        "not inside",
    ),
    "asset outside": (
        lambda root: write_manifest(
            root, {"cpu": CPU}, shared_assets={_reference(root): "../../etc"}
        ),
        "not inside",
    ),
    "no model": (
        lambda root: (root / "cpu" / "genai_config.json").write_text("{}"),
        "does not describe a model",
    ),
    "two files": (
        lambda root: (root / "cpu" / "tokenizer.json").write_text("{}"),
        "two files tokenizer.json",
    ),
    "graph missing": (lambda root: (root / "cpu" / "model.onnx").unlink(), "is missing"),
}


@pytest.mark.parametrize(("spoil", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(package: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(package)
    assert words in refused(package)


def _reference(root: Path) -> str:
    config: dict[str, Any] = json.loads((root / "cpu" / "genai_config.json").read_text())
    return str(config["model"]["tokenizer_dir"])


def _tokenizer(root: Path, reference: str) -> None:
    change(root / "cpu", lambda model: model.update(tokenizer_dir=reference))


def _link(root: Path) -> None:
    (root / "cpu").rename(root.parent / "elsewhere")
    (root / "cpu").symlink_to(root.parent / "elsewhere")
