"""The vision part of Qwen2.5-VL, against transformers."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from packager.jobs.export_vision import ExportVision
from packager.jobs.job import Work
from packager.vision import qwen2_5_vl
from packager.vision.exported import GRAPH, PROCESSOR, VisionError
from tests.support import tiny_seeing

SIDE = 28  # of a token, pixels


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seeing.make_qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5_vl") / "hf")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported")
    result = ExportVision(source=source, family="qwen2_5_vl").run(Work(target))
    assert result.type == "qwen2_5_vl"
    assert result.inputs == ("pixel_values", "image_grid_thw")
    # A picture 200 times as long as high, of so many pixels.
    assert result.image_tokens == 89 + 2
    assert result.sections == (2, 3, 3)
    assert result.tokens["image_token_id"] == result.image_token
    assert result.sizes == {"patch_size": 14, "spatial_merge_size": 2, "window_size": 56}
    return target


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (6, 10), (10, 6), (8, 20), (2, 30)])
def test_features_are_those_of_transformers(
    source: Path, exported: Path, grid: tuple[int, int]
) -> None:
    """Windows have 4 rows and 4 columns; the last may have less."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    rows, columns = grid
    pixels = torch.randn(rows * columns, 1176, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[1, rows, columns]])
    with torch.no_grad():
        (expected,) = model.get_image_features(pixels, sizes, return_dict=True).pooler_output
    given = {"pixel_values": pixels.numpy(), "image_grid_thw": sizes.numpy()}
    (features,) = onnxruntime.InferenceSession(exported / GRAPH).run(None, given)
    assert features.shape == (rows * columns // 4, 64)
    assert np.abs(features - expected.numpy()).max() < 1e-4 < expected.std()


def test_picture_is_resized_between_the_bounds_of_its_pixels(exported: Path) -> None:
    transforms = json.loads((exported / PROCESSOR).read_text())["processor"]["transforms"]
    steps = {step["operation"]["type"]: step["operation"]["attrs"] for step in transforms}
    assert list(steps) == ["DecodeImage", "Resize", "Rescale", "Normalize", "PatchImage"]
    assert steps["Resize"] == {
        "smart_resize": 1,
        "patch_size": 14,
        "merge_size": 2,
        "min_pixels": 4 * SIDE**2,
        "max_pixels": tiny_seeing.QWEN2_5_TOKENS * SIDE**2,
        "interpolation": "CUBIC",
    }


def test_tokens_of_a_picture_are_bounded(source: Path, tmp_path: Path) -> None:
    copy = tiny_seeing.copy(source, tmp_path / "copy")
    size = {"shortest_edge": 56 * 56, "longest_edge": 12845056}
    tiny_seeing.change(
        copy / "preprocessor_config.json", min_pixels=None, max_pixels=None, size=size
    )
    (tmp_path / "target").mkdir()
    result = qwen2_5_vl.export(copy, tmp_path / "target")
    assert result.image_tokens == qwen2_5_vl.MOST_TOKENS + 2


def test_numbers_of_pixels_that_are_none_are_refused(source: Path, tmp_path: Path) -> None:
    copy = tiny_seeing.copy(source, tmp_path / "copy")
    tiny_seeing.change(copy / "preprocessor_config.json", max_pixels="many")
    with pytest.raises(VisionError, match="no whole numbers of pixels"):
        qwen2_5_vl.export(copy, tmp_path)


def test_weights_of_another_tower_are_refused(source: Path, tmp_path: Path) -> None:
    copy = tiny_seeing.copy(source, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    vision = config["vision_config"] | {"intermediate_size": 48}
    tiny_seeing.change(copy / "config.json", vision_config=vision)
    with pytest.raises(VisionError, match="tensors of its visual are missing"):
        qwen2_5_vl.export(copy, tmp_path)
