"""Weights of an ONNX model are told by its graph, whatever the names of their files."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

from packager.genai import weight_files
from packager.genai.folder import memory_bytes
from packager.models.source import resolve
from tests.support import graphs
from tests.support.sources import refused


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the tiny ONNX model, to be spoilt."""
    return Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))


def test_external_data_of_any_name_is_weights(tiny_onnx: Path, folder: Path) -> None:
    graphs.rename_data(folder, "the-weights.bin")
    weights = folder / "the-weights.bin"
    assert weight_files.weight_files(folder) == [weights]
    assert weight_files.model_files(folder) == [folder / "model.onnx", weights]
    config = json.loads((folder / "genai_config.json").read_text())
    renamed, original = (
        memory_bytes(model, config, 64, cache_bytes=10, state_bytes=0)
        for model in (folder, tiny_onnx)
    )
    assert renamed == original


def test_other_graphs_in_the_folder_do_not_count(folder: Path) -> None:
    before = weight_files.model_bytes(folder)
    (folder / "model_fp16.onnx").write_bytes(b"x" * 1000)
    assert weight_files.model_bytes(folder) == before


def test_graph_with_its_weights_inside_is_weights(folder: Path) -> None:
    assert folder / "model.onnx" not in weight_files.weight_files(folder)
    model = onnx.load(str(folder / "model.onnx"))
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "model.onnx.data").unlink()
    assert weight_files.weight_files(folder) == [folder / "model.onnx"]


def test_missing_external_data_is_refused(folder: Path) -> None:
    graphs.rename_data(folder, "weights.bin")
    (folder / "weights.bin").unlink()
    assert "incomplete: missing weights.bin" in refused(folder)


def test_truncated_external_data_is_refused(folder: Path) -> None:
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-5000])
    message = refused(folder)
    assert "model.onnx.data is truncated" in message
    assert f"{len(data) - 5000} of at least" in message


@pytest.mark.parametrize("location", ["../weights.bin", "/weights.bin", "sub/../../w", ""])
def test_external_data_outside_the_folder_is_refused(folder: Path, location: str) -> None:
    graphs.point_data_to(folder, location)
    assert "outside its folder" in refused(folder)


def test_graph_outside_the_folder_is_refused(folder: Path) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["filename"] = "../model.onnx"
    path.write_text(json.dumps(config))
    onnx.save(onnx.load(str(folder / "model.onnx")), str(folder.parent / "model.onnx"))
    assert "outside its folder" in refused(folder)


def test_folder_of_links_is_taken(folder: Path, tmp_path: Path) -> None:
    """As huggingface_hub's cache has them."""
    blobs = Path(shutil.copytree(folder, tmp_path / "blobs"))
    for path in folder.iterdir():
        path.unlink()
        path.symlink_to(blobs / path.name)
    assert resolve(str(folder)).kind == "onnx"


@pytest.mark.parametrize("data", [b"", b"no graph at all"])
def test_graph_that_is_not_one_is_refused(folder: Path, data: bytes) -> None:
    (folder / "model.onnx").write_bytes(data)
    assert "model.onnx is damaged or not an ONNX graph" in refused(folder)
