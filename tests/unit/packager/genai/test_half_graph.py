"""A graph in half precision, added to a folder with one in single precision."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_runtime.processor import HALF_GRAPH
from packager.errors import QuantizeError
from packager.genai import half_graph

CODES = np.arange(64, dtype=np.uint8).reshape(4, 1, 16)


def folder(
    path: Path, dtype: type[np.floating], codes: np.ndarray = CODES, output: str = "logits"
) -> Path:
    """An ONNX GenAI folder with one quantized weight and one norm."""
    path.mkdir()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {
        "head.qweight": codes,
        "head.scales": np.full((4, 1), 0.5, np.float16),
        "norm": np.ones(64, dtype),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", "head.qweight", "head.scales"], [output], name="/lm_head/MatMul"
    )
    node.attribute.append(helper.make_attribute("bits", 4))
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", kind, [1, 32])],
        [helper.make_tensor_value_info(output, kind, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(
        helper.make_model(graph),
        str(path / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    config = {"model": {"decoder": {"filename": "model.onnx"}}}
    (path / "genai_config.json").write_text(json.dumps(config))
    return path


def test_weights_are_shared_and_the_rest_is_its_own(tmp_path: Path) -> None:
    whole = folder(tmp_path / "whole", np.float32)
    # The builder reads other roundings of the weights: those of the first graph are kept.
    half_graph.add(whole, folder(tmp_path / "half", np.float16, CODES[::-1]))
    model = onnx.load(str(whole / HALF_GRAPH))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(arrays["head.qweight"], CODES)
    assert arrays["norm"].dtype == np.float16
    assert (whole / f"{HALF_GRAPH}.data").stat().st_size == 64 * 2
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16


@pytest.mark.parametrize("fault", ["output", "weight"])
def test_graphs_of_another_form_are_refused(tmp_path: Path, fault: str) -> None:
    whole = folder(tmp_path / "whole", np.float32)
    half = folder(tmp_path / "half", np.float16, output="other" if fault == "output" else "logits")
    if fault == "weight":
        model = onnx.load(str(half / "model.onnx"))
        model.graph.node[0].attribute[0].i = 8
        onnx.save(model, str(half / "model.onnx"))
    with pytest.raises(QuantizeError, match="not of the form") as refused:
        half_graph.add(whole, half)
    assert "use_webgpu_fp32" in refused.value.hint
