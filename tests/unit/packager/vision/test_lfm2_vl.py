"""The vision part of LFM2-VL, against transformers."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from packager.jobs.export_vision import ExportVision
from packager.jobs.job import Work
from packager.vision import lfm2_vl
from packager.vision.exported import GRAPH, PROCESSOR, VisionError
from tests.support import tiny_seeing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seeing.make_lfm2_vl(tmp_path_factory.mktemp("lfm2_vl") / "hf")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported")
    result = ExportVision(source=source, family="lfm2_vl").run(Work(target))
    assert result.type == "lfm2_vl"
    assert result.inputs == ("pixel_values", "attention_mask", "image_sizes")
    assert result.image_tokens == tiny_seeing.LFM2_TOKENS + 2
    assert result.sizes == {"patch_size": 16, "spatial_merge_size": 2}
    return target


@pytest.mark.parametrize(
    "sizes", [[(4, 6)], [(2, 2)], [(8, 8)], [(20, 2)], [(2, 2), (10, 6), (2, 12)]]
)
def test_features_are_those_of_transformers(
    source: Path, exported: Path, sizes: list[tuple[int, int]]
) -> None:
    """Positions are known for 8 rows and columns: for more they are between those, for fewer an
    average."""
    import torch
    from transformers import Lfm2VlForConditionalGeneration

    model = Lfm2VlForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    counts = torch.tensor(sizes).prod(1)
    patches = int(counts.max())
    pixels = torch.randn(len(sizes), patches, 768, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(patches) < counts[:, None]).long()
    with torch.no_grad():
        expected = torch.cat(
            model.get_image_features(
                pixels,
                spatial_shapes=torch.tensor(sizes),
                pixel_attention_mask=mask,
                return_dict=True,
            ).pooler_output
        )
    (features,) = onnxruntime.InferenceSession(exported / GRAPH).run(
        None,
        {
            "pixel_values": pixels.numpy(),
            "attention_mask": mask.numpy(),
            "image_sizes": np.array(sizes),
        },
    )
    assert features.shape == (sum(rows * columns // 4 for rows, columns in sizes), 64)
    assert np.abs(features - expected.numpy()).max() < 1e-4 < expected.std()


def test_picture_is_resized_between_the_bounds_of_its_tokens(exported: Path) -> None:
    transforms = json.loads((exported / PROCESSOR).read_text())["processor"]["transforms"]
    steps = {step["operation"]["type"]: step["operation"]["attrs"] for step in transforms}
    assert list(steps)[-1] == "PixtralImageSizes"
    assert steps["Resize"] == {
        "smart_resize": 1,
        "patch_size": 16,
        "merge_size": 2,
        "min_pixels": 4 * 32 * 32,
        "max_pixels": 16 * 32 * 32,
        "interpolation": "LINEAR",
    }


def test_numbers_of_tokens_that_are_none_are_refused(source: Path, tmp_path: Path) -> None:
    copy = tiny_seeing.copy(source, tmp_path / "copy")
    tiny_seeing.change(copy / "preprocessor_config.json", max_image_tokens="many")
    with pytest.raises(VisionError, match="no whole numbers of tokens"):
        lfm2_vl.export(copy, tmp_path)
