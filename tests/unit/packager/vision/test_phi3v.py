"""The vision graph of Phi-3-vision against transformers' CLIP and loops over crops and lines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from packager.jobs.export_vision import ExportVision
from packager.jobs.job import JobRefusedError, Work
from packager.vision import phi3v
from packager.vision.exported import GRAPH, PROCESSOR, ExportedVision
from tests.support import tiny_phi3v
from tests.support.tiny_phi3v import CROP, HIDDEN, Reference


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_phi3v.make_hf(tmp_path_factory.mktemp("phi3v") / "hf")


@pytest.fixture(scope="module")
def vision(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder."""
    target = tmp_path_factory.mktemp("vision")
    assert export(hf, target) == ExportedVision(
        type="phi3v",
        inputs=("pixel_values", "image_sizes"),
        image_tokens=2653,
        image_token=None,
    )
    return target


def export(hf: Path, target: Path) -> ExportedVision:
    return ExportVision(source=hf, family="phi3_v").run(Work(target))


def noise(grids: list[tuple[int, int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of rows and columns of crops; what follows a picture's crops must not matter."""
    crops = 1 + max(rows * columns for rows, columns in grids) + padding
    pixels = torch.randn((len(grids), crops, 3, CROP, CROP), generator=torch.Generator())
    for picture, (rows, columns) in zip(pixels, grids, strict=True):
        picture[1 + rows * columns :] = float("nan")
    return pixels, CROP * torch.tensor(grids)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("grids", [[(1, 1)], [(2, 3)], [(1, 2), (3, 1)], [(1, 1), (2, 2), (1, 3)]])
def test_features_are_those_of_torch(
    hf: Path, vision: Path, grids: list[tuple[int, int]], padding: int
) -> None:
    pixels, sizes = noise(grids, padding)
    expected = Reference.load(hf).features(pixels, sizes).numpy()
    session = onnxruntime.InferenceSession(vision / GRAPH)
    inputs = {"pixel_values": pixels.numpy(), "image_sizes": sizes.numpy()}
    (features,) = session.run(None, inputs)
    assert features.shape == (sum(phi3v.tokens(*grid) for grid in grids), HIDDEN)
    assert np.abs(features - expected).max() < 1e-4
    assert expected.std() > 1


def test_files_are_small_graph_weights_and_transforms(vision: Path) -> None:
    assert {path.name for path in vision.iterdir()} == {GRAPH, f"{GRAPH}.data", PROCESSOR}
    assert (vision / GRAPH).stat().st_size < 200_000
    transforms = json.loads((vision / PROCESSOR).read_text())["processor"]["transforms"]
    types = [transform["operation"]["type"] for transform in transforms]
    assert types == ["DecodeImage", "Phi3ImageTransform"]


def changed_config(hf: Path, folder: Path, section: str, **values: Any) -> Path:
    shutil.copytree(hf, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[section] |= values
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("embd_layer", "hd_transform_order", "glb_sub"),
        ("embd_layer", "projection_cls", "linear"),
        ("img_processor", "type_feature", "cls_patch"),
        ("img_processor", "layer_idx", -1),
    ],
)
def test_other_configuration_is_refused(
    hf: Path, tmp_path: Path, section: str, name: str, value: Any
) -> None:
    other = changed_config(hf, tmp_path / "hf", section, **{name: value})
    (tmp_path / "vision").mkdir()
    with pytest.raises(JobRefusedError, match=f"{section}.{name} is not"):
        export(other, tmp_path / "vision")
    assert not list((tmp_path / "vision").iterdir())


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: {n: t for n, t in own.items() if "sub_GN" not in n}, "1 tensors .* sub_GN"),
        (lambda own: {n: t for n, t in own.items() if "vision" not in n}, "tensors .* missing"),
        (
            lambda own: {n: t[:1] if "fc1" in n else t for n, t in own.items()},
            r"other shapes .*\.fc1",
        ),
    ],
)
def test_missing_tensors_are_refused(
    hf: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    shutil.copytree(hf, tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    save_file(tensors, file, {"format": "pt"})
    (tmp_path / "vision").mkdir()
    with pytest.raises(JobRefusedError, match=message):
        export(tmp_path / "hf", tmp_path / "vision")
    assert not list((tmp_path / "vision").iterdir())
