"""Hidden states as a further output of a graph."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from device_runtime.bundle.embedding import HIDDEN_STATES
from device_runtime.processor import HALF_GRAPH
from packager.errors import QuantizeError
from packager.genai import half_graph, hidden_states
from tests.unit.packager.genai.test_half_graph import folder


def with_states(path: Path, dtype: type[np.floating]) -> Path:
    """A folder whose graph says what its head takes, as those of the builder do."""
    made = folder(path, dtype)
    model = onnx.load(str(made / "model.onnx"), load_external_data=False)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model.graph.value_info.append(helper.make_tensor_value_info("x", kind, ["b", "s", 32]))
    onnx.save(model, str(made / "model.onnx"))
    return made


def test_all_graphs_get_the_output_and_their_links_are_cut(tmp_path: Path) -> None:
    both = with_states(tmp_path / "both", np.float32)
    half_graph.add(both, with_states(tmp_path / "half", np.float16))
    before = (both / "model.onnx").read_bytes()
    os.link(both / "model.onnx", tmp_path / "cached.onnx")
    assert hidden_states.add(both) == (32, 4)
    assert (tmp_path / "cached.onnx").read_bytes() == before
    for name in ("model.onnx", HALF_GRAPH):
        graph = onnx.load(str(both / name), load_external_data=False).graph
        assert [output.name for output in graph.output] == ["logits", HIDDEN_STATES]
        assert graph.output[1].type.tensor_type.elem_type == TensorProto.FLOAT
        assert graph.node[-1].input[0] == "x"


def test_graph_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no head that takes hidden states"):
        hidden_states.add(folder(tmp_path / "m", np.float32, output="scores"))
