"""Vision graphs with smaller weights."""

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from device_runtime.bundle.vision import VisionWeights
from packager.jobs.job import Work
from packager.jobs.store_vision import StoreVision
from packager.vision.exported import GRAPH, PROCESSOR

WIDTH = 96


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision folder: a convolution makes patches; a linear layer for each form of the export."""
    import torch

    class Sight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, WIDTH, 4, 4)
            self.states = torch.nn.Linear(WIDTH, 2 * WIDTH)
            self.plain = torch.nn.Linear(2 * WIDTH, WIDTH, bias=False)
            self.rows = torch.nn.Linear(WIDTH, 64)  # of two dimensions: a Gemm

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            states = self.patches(pixel_values).flatten(2).transpose(1, 2)
            states = self.plain(torch.relu(self.states(states)))
            output: torch.Tensor = self.rows(states.reshape(-1, WIDTH))
            return output

    folder = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age
        torch.onnx.export(
            Sight().eval(),
            (torch.zeros(1, 3, 16, 16),),
            str(folder / "whole.onnx"),
            input_names=["pixel_values"],
            output_names=["image_features"],
            opset_version=17,
            dynamo=False,
        )
    model = onnx.load(str(folder / "whole.onnx"))
    onnx.save(
        model,
        str(folder / GRAPH),
        save_as_external_data=True,
        location=f"{GRAPH}.data",
        size_threshold=100,
    )
    (folder / "whole.onnx").unlink()
    (folder / PROCESSOR).write_text("{}")
    # As the models have it that are joined from this folder.
    os.link(folder / f"{GRAPH}.data", folder.parent / "another-link")
    return folder


def features(folder: Path) -> np.ndarray:
    pixels = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / GRAPH)
    return np.asarray(session.run(None, {"pixel_values": pixels})[0])


@pytest.mark.parametrize(
    ("weights", "ratio", "error"), [("fp16", 0.55, 1e-3), ("int8", 0.45, 0.03)]
)
def test_weights_are_smaller_and_the_features_are_near(
    floats: Path, tmp_path: Path, weights: VisionWeights, ratio: float, error: float
) -> None:
    StoreVision(source=floats, weights=weights).run(Work(tmp_path))
    expected = features(floats)
    difference = np.linalg.norm(features(tmp_path) - expected) / np.linalg.norm(expected)
    assert 0 < difference < error
    data = f"{GRAPH}.data"
    assert (tmp_path / data).stat().st_size < ratio * (floats / data).stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == [PROCESSOR, GRAPH, data]


def test_linear_layers_get_eight_bits_and_the_patches_stay_floats(
    floats: Path, tmp_path: Path
) -> None:
    StoreVision(source=floats, weights="int8").run(Work(tmp_path))
    graph = onnx.load(str(tmp_path / GRAPH), load_external_data=False).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(quantized) == 3
    for node in quantized:
        values = {attribute.name: attribute.i for attribute in node.attribute}
        assert (values["bits"], values["block_size"], values["accuracy_level"]) == (8, 32, 4)
    assert not {"Gemm", "MatMul"} & {node.op_type for node in graph.node}
    (patches,) = (
        tensor
        for tensor in graph.initializer
        if tensor.dims[:1] == [WIDTH] and len(tensor.dims) == 4
    )
    assert patches.data_type == onnx.TensorProto.FLOAT
