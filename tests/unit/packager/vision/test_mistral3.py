"""The vision part of Mistral 3, against transformers."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from packager.jobs.export_vision import ExportVision
from packager.jobs.job import Work
from packager.vision import mistral3
from packager.vision.exported import GRAPH, VisionError
from tests.support import tiny_seeing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seeing.make_mistral3(tmp_path_factory.mktemp("mistral3") / "hf")


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return tiny_seeing.copy(source, tmp_path / "copy")


def features(source: Path, target: Path, sizes: list[tuple[int, int]]) -> None:
    """Compare the features of pictures of some sizes with those of transformers."""
    import torch
    from transformers import Mistral3ForConditionalGeneration

    model = Mistral3ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    height, width = (max(size[side] for size in sizes) for side in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width)
    random = torch.Generator().manual_seed(1)
    pictures = [torch.randn(3, *size, generator=random) for size in sizes]
    for padded, picture in zip(pixels, pictures, strict=True):
        padded[:, : picture.shape[1], : picture.shape[2]] = picture
    with torch.no_grad():
        expected = model.get_image_features(pixels, image_sizes=sizes, return_dict=True)
    session = onnxruntime.InferenceSession(target / GRAPH)
    for picture, wanted in zip(pictures, expected.pooler_output, strict=True):
        (actual,) = session.run(None, {"pixel_values": picture[None].numpy()})
        assert actual.shape == wanted.shape
        assert np.abs(actual - wanted.numpy()).max() < 1e-4 < wanted.std()


def test_features_are_those_of_transformers(source: Path, tmp_path: Path) -> None:
    result = ExportVision(source=source, family="mistral3").run(Work(tmp_path))
    assert (result.type, result.inputs, result.image_token) == ("mistral3", ("pixel_values",), 10)
    assert result.sizes == {"patch_size": 14, "spatial_merge_size": 2}
    features(source, tmp_path, [(140, 84)])
    features(source, tmp_path, [(28, 56), (112, 140)])


def test_states_of_another_layer_are_taken(copy: Path, tmp_path: Path) -> None:
    tiny_seeing.change(copy / "config.json", vision_feature_layer=-2)
    mistral3.export(copy, tmp_path)
    features(copy, tmp_path, [(56, 84)])


def test_most_tokens_are_those_of_the_longest_picture(source: Path, tmp_path: Path) -> None:
    # 25 squares of 28 x 28 pixels, one in each row, and a token at the end of each row.
    assert mistral3.export(source, tmp_path).image_tokens == 50


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"vision_feature_layer": [-1]}),
        ("processor_config.json", {"image_processor": {"image_mean": [0.5] * 3, "resample": 3}}),
    ],
)
def test_another_configuration_is_refused(
    copy: Path, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    tiny_seeing.change(copy / name, **changes)
    with pytest.raises(VisionError, match="longest_edge"):
        mistral3.export(copy, tmp_path)
