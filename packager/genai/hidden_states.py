"""The last hidden states of a decoder as a further output of its graphs.

ONNX Runtime GenAI passes outputs that it does not know on (`Generator.get_output`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle.embedding import HIDDEN_STATES
from packager.errors import QuantizeError
from packager.genai import pruned_head, weight_files
from packager.recipes.nodes import HEAD

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("MatMul", "MatMulNBits")
_BATCH = ("batch_size", "sequence_length")


def add(folder: Path) -> tuple[int, int]:
    """Add the output to all graphs of an ONNX GenAI folder: float32 [batch, tokens, width].

    Args:
        folder: the folder; its graphs are replaced, and may be links to files of others.

    Returns:
        The width, and the size of the vocabulary.

    Raises:
        QuantizeError: a graph has no head by the name that the model builder gives it.
    """
    import onnx

    for path in weight_files.graphs(folder):
        model = onnx.load(str(path), load_external_data=False)
        width, vocabulary = _add(model)
        aside = path.with_name(f".{path.name}")
        onnx.save(model, str(aside))
        aside.replace(path)
    return width, vocabulary


def _add(model: onnx.ModelProto) -> tuple[int, int]:
    from onnx import TensorProto, helper

    graph = model.graph
    heads = (node for node in graph.node if node.op_type in _PRODUCTS)
    head = next((node for node in heads if node.name.startswith(HEAD)), None)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    shapes |= {value.name: value.type.tensor_type.shape.dim for value in graph.output}
    states = pruned_head.hidden_states(graph, head) if head is not None else ""
    if states not in shapes or "logits" not in shapes:
        raise QuantizeError(
            "the graph has no head that takes hidden states: the model builder did not make it",
            hint="Use an embedding model of its own, such as --embedding-model all-minilm-l6-v2.",
        )
    width = shapes[states][-1].dim_value
    # Of a graph in half precision, too, the device reads single precision.
    cast = helper.make_node("Cast", [states], [HIDDEN_STATES], to=TensorProto.FLOAT)
    graph.node.append(cast)
    graph.output.append(
        helper.make_tensor_value_info(HIDDEN_STATES, TensorProto.FLOAT, [*_BATCH, width])
    )
    return width, shapes["logits"][-1].dim_value
