"""The vision part of Gemma 3, against transformers."""

import json
from pathlib import Path

import onnxruntime
import pytest
from safetensors.torch import load_file, save_file

from packager.jobs.export_vision import ExportVision
from packager.jobs.job import JobRefusedError, Work
from packager.vision import gemma3
from packager.vision.exported import GRAPH, PROCESSOR, VisionError
from tests.support import tiny_seeing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seeing.make_gemma3(tmp_path_factory.mktemp("gemma3") / "hf")


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return tiny_seeing.copy(source, tmp_path / "copy")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported")
    result = ExportVision(source=source, family="gemma3").run(Work(target))
    assert (result.type, result.inputs, result.image_tokens) == ("gemma3", ("pixel_values",), 256)
    assert (
        result.image_token == json.loads((source / "config.json").read_text())["image_token_index"]
    )
    return target


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_features_are_those_of_transformers(source: Path, exported: Path, pictures: int) -> None:
    import torch
    from transformers import Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    side = tiny_seeing.GEMMA3_SIDE
    pixels = torch.randn(pictures, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.get_image_features(pixels, return_dict=True).pooler_output
    (features,) = onnxruntime.InferenceSession(exported / GRAPH).run(
        None, {"pixel_values": pixels.numpy()}
    )
    assert features.shape == (pictures, 256, 96)
    assert abs(features - expected.numpy()).max() < 1e-4 < expected.std()


def test_attention_is_one_operator_and_weights_are_beside_the_graph(exported: Path) -> None:
    import onnx

    graph = onnx.load(str(exported / GRAPH), load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MultiHeadAttention") == 2
    assert "Softmax" not in kinds
    assert {path.name for path in exported.iterdir()} == {GRAPH, f"{GRAPH}.data", PROCESSOR}


def test_names_of_the_publisher_are_read(copy: Path, tmp_path: Path, exported: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in tensors.items()
    }
    assert set(renamed) != set(tensors)
    save_file(renamed, copy / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "v").mkdir()
    gemma3.export(copy, tmp_path / "v")
    for name in (GRAPH, f"{GRAPH}.data"):
        assert (tmp_path / "v" / name).read_bytes() == (exported / name).read_bytes()


def test_transforms_are_those_of_the_image_processor(copy: Path, tmp_path: Path) -> None:
    settings = {"image_mean": [0, 0.25, 1], "image_std": [1, 1, 2], "resample": 3}
    tiny_seeing.change(copy / "preprocessor_config.json", **settings)
    gemma3.export(copy, tmp_path)
    content = json.loads((tmp_path / PROCESSOR).read_text())
    steps = {
        step["operation"]["type"]: step["operation"]["attrs"]
        for step in content["processor"]["transforms"]
    }
    assert list(steps) == ["DecodeImage", "Resize", "Rescale", "Normalize", "Permute3D"]
    assert steps["Resize"] == {"height": 64, "width": 64, "interpolation": "CUBIC"}
    # The engine reads no integers here.
    assert '"mean": [0.0, 0.25, 1.0]' in json.dumps(steps["Normalize"])


def test_another_number_of_tokens_is_refused(copy: Path, tmp_path: Path) -> None:
    tiny_seeing.change(copy / "config.json", mm_tokens_per_image=64)
    (tmp_path / "v").mkdir()
    with pytest.raises(JobRefusedError, match=r"64 tokens of a picture; .* with 256 alone"):
        ExportVision(source=copy, family="gemma3").run(Work(tmp_path / "v"))
    assert not list((tmp_path / "v").iterdir())


@pytest.mark.parametrize(
    "name", ["vision_tower.post_layernorm.bias", "multi_modal_projector.mm_soft_emb_norm.weight"]
)
@pytest.mark.parametrize("fault", ["missing", "shape", "quantized"])
def test_weights_that_do_not_fit_are_refused(
    copy: Path, tmp_path: Path, name: str, fault: str
) -> None:
    import torch

    tensors = load_file(copy / "model.safetensors")
    tensor = tensors.pop(name)
    if fault == "shape":
        tensors[name] = tensor[:-1].contiguous()
    elif fault == "quantized":
        tensors[name] = tensor.to(torch.float8_e4m3fn)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    part, tensor_name = name.split(".", 1)
    with pytest.raises(VisionError, match=f"1 tensors of its {part} .* such as {tensor_name}"):
        gemma3.export(copy, tmp_path)


def test_head_that_is_not_used_is_left_out(copy: Path, tmp_path: Path, exported: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["vision_tower.head.probe"] = tensors["vision_tower.post_layernorm.bias"].clone()
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "v").mkdir()
    gemma3.export(copy, tmp_path / "v")
    assert (tmp_path / "v" / GRAPH).read_bytes() == (exported / GRAPH).read_bytes()


def test_another_tower_is_refused(copy: Path, tmp_path: Path) -> None:
    tiny_seeing.change(copy / "config.json", vision_config={"model_type": "clip_vision_model"})
    with pytest.raises(VisionError, match="clip_vision_model, not siglip_vision_model"):
        gemma3.export(copy, tmp_path)


@pytest.mark.parametrize(
    "settings", [{"do_normalize": False}, {"do_resize": False}, {"resample": 4}]
)
def test_another_image_processor_is_refused(
    copy: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    tiny_seeing.change(copy / "preprocessor_config.json", **settings)
    with pytest.raises(VisionError, match="image processor does not"):
        gemma3.export(copy, tmp_path)


def test_folder_without_image_processor_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(VisionError, match=r"preprocessor_config\.json"):
        gemma3.export(copy, tmp_path)
