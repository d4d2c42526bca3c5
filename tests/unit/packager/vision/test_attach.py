"""A text model and a vision graph as one folder."""

import json
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from packager.errors import QuantizeError
from packager.vision.attach import EMBEDDING_GRAPH, attach
from packager.vision.exported import GRAPH, PROCESSOR, ExportedVision
from tests.support.tiny_model import make_onnx

Floats = npt.NDArray[np.float32]

WIDTH = 64
IMAGE_TOKEN = 7
IDS = [5, 9, IMAGE_TOKEN, IMAGE_TOKEN, 30]
FEATURES: Floats = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH) / np.float32(100)


def vision_folder(folder: Path, dims: int = 2) -> Path:
    shape = ["images", "tokens", str(WIDTH)][-dims:]
    value = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)
    output = helper.make_tensor_value_info("image_features", TensorProto.FLOAT, shape)
    node = helper.make_node("Identity", ["pixel_values"], ["image_features"])
    folder.mkdir()
    onnx.save(helper.make_model(helper.make_graph([node], "g", [value], [output])), folder / GRAPH)
    (folder / PROCESSOR).write_text("{}")
    return folder


def exported(image_token: int | None) -> ExportedVision:
    return ExportedVision(
        type="phi3v", inputs=("pixel_values",), image_tokens=2, image_token=image_token
    )


def embeds(folder: Path, ids: list[int], features: Floats) -> Floats:
    session = onnxruntime.InferenceSession(folder / EMBEDDING_GRAPH)
    given = {"input_ids": np.array([ids]), "image_features": features}
    values: Floats = session.run(None, given)[0]
    return values.squeeze(0)


def logits(graph: Path, **inputs: npt.NDArray[np.generic]) -> Floats:
    session = onnxruntime.InferenceSession(graph)
    (tokens,) = {value.shape[1] for name, value in inputs.items() if name != "position_ids"}
    inputs["attention_mask"] = np.ones((1, tokens), np.int64)
    for value in session.get_inputs():
        if "past" in value.name:
            inputs[value.name] = np.zeros((1, 2, 0, 16), np.float32)
    return np.asarray(session.run(["logits"], inputs)[0])


@pytest.fixture(scope="module", params=["fp32", "int4"])
def text(
    request: pytest.FixtureRequest, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    work = tmp_path_factory.mktemp("text")
    return make_onnx(tiny_hf, work / "model", work / "cache", request.param)


def test_text_alone_gives_the_logits_of_the_whole_graph(text: Path, tmp_path: Path) -> None:
    attach(text, vision_folder(tmp_path / "v"), exported(IMAGE_TOKEN), tmp_path / "m")
    plain = [5, 9, 30]
    states = embeds(tmp_path / "m", plain, FEATURES[:0])
    split = logits(tmp_path / "m" / "model.onnx", inputs_embeds=states[None])
    assert np.array_equal(split, logits(text / "model.onnx", input_ids=np.array([plain])))


def test_three_positions_change_nothing_in_text(text: Path, tmp_path: Path) -> None:
    of = msgspec.structs.replace(
        exported(IMAGE_TOKEN), sections=(2, 3, 3), tokens={"vision_start_token_id": 8}
    )
    attach(text, vision_folder(tmp_path / "v"), of, tmp_path / "m")
    plain = [5, 9, 30]
    states = embeds(tmp_path / "m", plain, FEATURES[:0])
    positions = np.tile(np.arange(len(plain)), (3, 1, 1))
    model = json.loads((tmp_path / "m" / "genai_config.json").read_text())["model"]
    assert model["decoder"]["inputs"]["position_ids"] == "position_ids"
    assert model["vision_start_token_id"] == 8
    graph = tmp_path / "m" / "model.onnx"
    turned = logits(graph, inputs_embeds=states[None], position_ids=positions)
    expected = logits(text / "model.onnx", input_ids=np.array([plain]))
    assert np.abs(turned - expected).max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("token", "mark"), [(IMAGE_TOKEN, IMAGE_TOKEN), (None, -1)])
def test_features_take_the_places_of_the_image_tokens(
    text: Path, tmp_path: Path, dims: int, token: int | None, mark: int
) -> None:
    attach(text, vision_folder(tmp_path / "v", dims), exported(token), tmp_path / "m")
    ids = [mark if number == IMAGE_TOKEN else number for number in IDS]
    features = FEATURES if dims == 2 else FEATURES[:, None]
    states = embeds(tmp_path / "m", ids, features)
    assert np.array_equal(states[2:4], FEATURES)
    others = embeds(tmp_path / "m", [5, 9, 30], features[:0])
    assert np.array_equal(states[[0, 1, 4]], others)


def test_fewer_features_than_image_tokens_fail(text: Path, tmp_path: Path) -> None:
    attach(text, vision_folder(tmp_path / "v"), exported(IMAGE_TOKEN), tmp_path / "m")
    with pytest.raises(Exception, match="ScatterND"):
        embeds(tmp_path / "m", IDS, FEATURES[:1])


def test_folder_has_three_graphs_over_the_same_weights(text: Path, tmp_path: Path) -> None:
    attach(text, vision_folder(tmp_path / "v"), exported(None), tmp_path / "m")
    model = json.loads((tmp_path / "m" / "genai_config.json").read_text())["model"]
    assert model["type"] == "phi3v"
    assert model["vision"] == {
        "filename": GRAPH,
        "config_filename": PROCESSOR,
        "inputs": {"pixel_values": "pixel_values"},
        "outputs": {"image_features": "image_features"},
    }
    assert model["embedding"]["inputs"] == {
        "input_ids": "input_ids",
        "image_features": "image_features",
    }
    assert "input_ids" not in model["decoder"]["inputs"]
    assert model["decoder"]["inputs"]["inputs_embeds"] == "inputs_embeds"
    assert (tmp_path / "m" / "model.onnx.data").samefile(text / "model.onnx.data")


def test_graph_of_another_form_is_refused(text: Path, tmp_path: Path) -> None:
    model = onnx.load(str(text / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        node.name = ""
    (tmp_path / "other").mkdir()
    onnx.save(model, tmp_path / "other" / "model.onnx")
    config = (text / "genai_config.json").read_text()
    (tmp_path / "other" / "genai_config.json").write_text(config)
    with pytest.raises(QuantizeError, match="its embedding has 0 outputs"):
        attach(tmp_path / "other", vision_folder(tmp_path / "v"), exported(None), tmp_path / "m")
