"""Graph pass that quantizes the float MatMuls and the embedding of a built graph to 4 or 8 bits.

The model builder creates the graph; this pass replaces its own quantizers, for three measured
reasons: they do not support calibrated weights, some of their combinations give graphs that do not
load when embeddings are tied, and they keep several copies of the model in memory. Here one weight
at a time is read, quantized and released.

Operators: com.microsoft MatMulNBits and GatherBlockQuantized. Layout of their inputs, from ONNX
Runtime's operator documentation: codes `[out, blocks, block_size * bits / 8]`, zero points
`[out, ceil(blocks * bits / 8)]`, the first code in the low bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from packager.recipes.nodes import EMBEDDING, HEAD
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from torch import Tensor

_DOMAIN = "com.microsoft"

Quantizer = Callable[[str, "Tensor"], Blocks | None]
"""Function from a node's name and float weight `[out, in]` to the quantized weight; None keeps the
float weight."""


def quantize_graph(
    model: ir.Model, quantizer: Quantizer, *, tied: bool, accuracy_level: int
) -> None:
    """Quantize the weights of a graph, in place.

    Args:
        model: graph as the builder created it, with float weights.
        quantizer: called once for each weight.
        tied: embedding and head share their weight; both then share a quantized tensor.
        accuracy_level: accuracy level of each MatMulNBits: 4 computes on int8 activations, 0 is
            unspecified.
    """
    graph = model.graph
    head: tuple[list[ir.Value], Blocks] | None = None
    nodes = [node for node in graph if _weight_index(node) is not None]
    # The head comes first: a tied embedding reuses its tensors.
    for node in sorted(nodes, key=lambda candidate: candidate.name != HEAD):
        index = _weight_index(node)
        assert node.name is not None and index is not None
        weight = node.inputs[index]
        assert weight is not None
        if node.name == EMBEDDING and tied and head is not None:
            _to_gather(node, *head)
        else:
            blocks = quantizer(node.name, _float_weight(node, weight))
            if blocks is None:
                continue
            stored = _store(graph, node.name[1:].replace("/", "."), blocks, weight)
            if node.op_type == "MatMul":
                _to_matmul(node, stored, blocks, accuracy_level)
            else:
                _to_gather(node, stored, blocks)
            if node.name == HEAD:
                head = (stored, blocks)
        if not weight.uses():
            del graph.initializers[str(weight.name)]
    model.opset_imports.setdefault(_DOMAIN, 1)


def _weight_index(node: ir.Node) -> int | None:
    """Return the index of the node's input that is a weight to quantize; None without one."""
    index = {"MatMul": 1, "Gather": 0}.get(node.op_type)
    if index is None or (node.op_type == "Gather" and node.name != EMBEDDING):
        return None
    value = node.inputs[index]
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    return index


def _float_weight(node: ir.Node, value: ir.Value) -> Tensor:
    """Return a node's weight as float32 `[out, in]`."""
    import numpy as np
    import torch

    assert value.const_value is not None
    weight = torch.from_numpy(value.const_value.numpy().astype(np.float32, copy=False))
    return weight.T if node.op_type == "MatMul" else weight


def _store(graph: ir.Graph, name: str, blocks: Blocks, weight: ir.Value) -> list[ir.Value]:
    """Add codes, scales and zero points to the graph; scales have the weight's dtype.

    Zero points that are all the midpoint are omitted: it is the operators' default.
    """
    out, width = blocks.codes.shape
    count = -(-width // blocks.block_size)
    codes = _pack(blocks.codes.numpy(), count * blocks.block_size, blocks.bits)
    assert weight.dtype is not None
    values = [
        _initializer(graph, f"{name}.qweight", codes.reshape(out, count, -1)),
        _initializer(graph, f"{name}.scales", blocks.scales.numpy().astype(weight.dtype.numpy())),
    ]
    if (blocks.zeros != 1 << (blocks.bits - 1)).any():
        zeros = _pack(blocks.zeros.numpy(), count, blocks.bits)
        values.append(_initializer(graph, f"{name}.zeros", zeros))
    return values


def _pack(codes: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Pack codes `[out, n]`, one a byte, to `[out, ceil(width * bits / 8)]`, low bits first."""
    import numpy as np

    if bits == 8:
        width_bytes = width
        packed = codes
    else:
        width_bytes = -(-width // 2)
        even = np.zeros((codes.shape[0], width_bytes * 2), np.uint8)
        even[:, : codes.shape[1]] = codes
        return even[:, 0::2] | even[:, 1::2] << 4
    return np.pad(packed, ((0, 0), (0, width_bytes - codes.shape[1])))


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _to_matmul(node: ir.Node, weight: list[ir.Value], blocks: Blocks, accuracy_level: int) -> None:
    out, width = blocks.codes.shape
    inputs = [node.inputs[0], *weight]
    attributes = {
        "K": width,
        "N": out,
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "accuracy_level": accuracy_level,
    }
    _replace(node, "MatMulNBits", inputs, attributes)


def _to_gather(node: ir.Node, weight: list[ir.Value], blocks: Blocks) -> None:
    """Turn the embedding's Gather into GatherBlockQuantized on a 2-D view of the MatMul's codes."""
    import numpy as np
    import onnx_ir as ir

    graph = node.graph
    assert isinstance(graph, ir.Graph)
    # A constant node: shape inference does not read initializers stored as external data.
    rows = ir.tensor(np.array([len(blocks.codes), -1], np.int64))
    shape = ir.node("Constant", [], {"value": rows}, name=f"{node.name}/Shape")
    view = ir.node("Reshape", [weight[0], shape.outputs[0]], name=f"{node.name}/Reshape")
    for new in (shape, view):
        new.outputs[0].name = f"{new.name}/output_0"
        graph.insert_before(node, new)
    inputs = [view.outputs[0], node.inputs[1], *weight[1:]]
    attributes = {
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    _replace(node, "GatherBlockQuantized", inputs, attributes)


def _replace(
    node: ir.Node, operator: str, inputs: list[ir.Value | None], attributes: dict[str, int]
) -> None:
    """Replace operator, inputs and attributes of a node; its outputs stay."""
    import onnx_ir as ir

    node.op_type, node.domain = operator, _DOMAIN
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    node.attributes.update({name: ir.AttrInt64(name, value) for name, value in attributes.items()})
