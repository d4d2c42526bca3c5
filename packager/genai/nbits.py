"""Graph pass that quantizes the float MatMuls and the embedding of a built graph to 4 or 8 bits.

The model builder creates the graph; this pass replaces its own quantizers, for three measured
reasons: they do not support calibrated weights, some of their combinations give graphs that do not
load when embeddings are tied, and they keep several copies of the model in memory. Here one weight
at a time is read, quantized and released.

Operators: com.microsoft MatMulNBits and GatherBlockQuantized. Layout of their inputs, from ONNX
Runtime's operator documentation: codes `[out, blocks, block_size * bits / 8]`, zero points
`[out, ceil(blocks * bits / 8)]`, the first code in the low bits.

A weight with offsets is a wider MatMulNBits: `in + blocks` inputs, of which the last are the means
of the others over each block, as a mean is one operator and a sum would be two; so the offsets are
stored multiplied by the block size. Nodes with the same input share the means.
A weight whose rows have several forms is a MatMulNBits for each, and a Concat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from packager.recipes.nodes import EMBEDDING, HEAD
from packager.weights.blocks import Blocks

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from torch import Tensor

_DOMAIN = "com.microsoft"

MAX_SCALE_ERROR = 2**-10
"""Relative error above which scales are not stored in half precision: some are too small for it."""

Quantizer = Callable[[str, "Tensor"], "Sequence[Blocks] | None"]
"""Function from a node's name and float weight `[out, in]` to the quantized weight, as parts that
follow each other along `out`; None keeps the float weight. Embedding and head have one part."""


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
    means = _Means(graph)
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
            parts = quantizer(node.name, _float_weight(node, weight))
            if parts is None:
                continue
            name = node.name[1:].replace("/", ".")
            if node.op_type == "MatMul" and len(parts) > 1:
                _to_matmuls(node, name, parts, weight, accuracy_level, means)
            else:
                (blocks,) = parts
                stored = _store(graph, name, blocks, weight)
                if node.op_type == "MatMul":
                    _to_matmul(node, stored, blocks, accuracy_level, means)
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
    """Add codes, scales and zero points to the graph.

    Zero points that are all the midpoint are omitted: it is the operators' default.
    """
    import torch

    forms = [blocks]
    if blocks.offsets is not None:
        wider = blocks.offsets.scales * blocks.block_size
        forms.append(replace(blocks.offsets, scales=wider))
    codes, scales, zeros = (
        torch.cat([getattr(form, field) for form in forms], 1).numpy()
        for field in ("codes", "scales", "zeros")
    )
    out, width = codes.shape
    count = -(-width // blocks.block_size)
    packed = _pack(codes, count * blocks.block_size, blocks.bits)
    values = [
        _initializer(graph, f"{name}.qweight", packed.reshape(out, count, -1)),
        _scales(graph, f"{name}.scales", scales, weight),
    ]
    if (zeros != 1 << (blocks.bits - 1)).any():
        values.append(_initializer(graph, f"{name}.zeros", _pack(zeros, count, blocks.bits)))
    return values


def _scales(graph: ir.Graph, name: str, scales: np.ndarray, weight: ir.Value) -> ir.Value:
    """Add scales in half precision, with a Cast to the weight's dtype, which ONNX Runtime folds.

    In fp32 they would be a fifth of the bytes of a 4-bit weight. The rounding, 2^-11 of a scale, is
    a hundredth of that of the codes.
    """
    import numpy as np
    import onnx_ir as ir

    assert weight.dtype is not None
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    lost = np.linalg.norm(half.astype(np.float32) - scales)
    if weight.dtype != ir.DataType.FLOAT or not lost < MAX_SCALE_ERROR * np.linalg.norm(scales):
        return _initializer(graph, name, scales.astype(weight.dtype.numpy()))
    value = _initializer(graph, name, half)
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"/{name}/Cast")
    cast.outputs[0].name = f"/{name}/Cast/output_0"
    graph.insert_before(graph[0], cast)
    return cast.outputs[0]


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


def _to_matmul(
    node: ir.Node, weight: list[ir.Value], blocks: Blocks, accuracy_level: int, means: _Means
) -> None:
    out, width = blocks.codes.shape
    source = node.inputs[0]
    if blocks.offsets is not None:
        assert source is not None
        source = means.appended(source, node, width, blocks.block_size)
        width += blocks.offsets.codes.shape[1]
    attributes = {
        "K": width,
        "N": out,
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "accuracy_level": accuracy_level,
    }
    _replace(node, "MatMulNBits", [source, *weight], attributes)


def _to_matmuls(
    node: ir.Node,
    name: str,
    parts: Sequence[Blocks],
    weight: ir.Value,
    accuracy_level: int,
    means: _Means,
) -> None:
    """Turn a MatMul into one for each part of its weight, and a Concat of their outputs."""
    import onnx_ir as ir

    graph = node.graph
    assert isinstance(graph, ir.Graph)
    outputs: list[ir.Value | None] = []
    for number, part in enumerate(parts):
        matmul = ir.node("MatMul", [node.inputs[0]], name=f"{node.name}/{number}")
        matmul.outputs[0].name = f"{matmul.name}/output_0"
        graph.insert_before(node, matmul)
        stored = _store(graph, f"{name}.{number}", part, weight)
        _to_matmul(matmul, stored, part, accuracy_level, means)
        outputs.append(matmul.outputs[0])
    _replace(node, "Concat", outputs, {"axis": -1}, domain="")


class _Means:
    """Values with the means of their blocks appended, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._appended: dict[tuple[str, int], ir.Value] = {}

    def appended(self, value: ir.Value, node: ir.Node, width: int, block_size: int) -> ir.Value:
        """Return `[batch, tokens, width + blocks]` for a value `[batch, tokens, width]`.

        Args:
            value: the value.
            node: first node that uses the result.
            width: size of the value's last dimension, a multiple of the block size.
            block_size: elements of a block.
        """
        import onnx_ir as ir

        key = (str(value.name), block_size)
        if key not in self._appended:
            name = f"{value.name}/means_of_{block_size}"
            strides = {"kernel_shape": [block_size], "strides": [block_size]}
            mean = ir.node("AveragePool", [value], strides, name=f"{name}/AveragePool")
            both = ir.node("Concat", [value, mean.outputs[0]], {"axis": -1}, name=f"{name}/Concat")
            for new in (mean, both):
                new.outputs[0].name = f"{new.name}/output_0"
                self._graph.insert_before(node, new)
            self._appended[key] = both.outputs[0]
        return self._appended[key]


def _to_gather(node: ir.Node, weight: list[ir.Value], blocks: Blocks) -> None:
    """Turn the embedding's Gather into GatherBlockQuantized on a 2-D view of the MatMul's codes."""
    import numpy as np
    import onnx_ir as ir

    graph = node.graph
    assert isinstance(graph, ir.Graph)
    shape = _constant(graph, np.array([len(blocks.codes), -1]), f"{node.name}/Shape")
    view = ir.node("Reshape", [weight[0], shape], name=f"{node.name}/Reshape")
    view.outputs[0].name = f"{view.name}/output_0"
    graph.insert_before(node, view)
    inputs = [view.outputs[0], node.inputs[1], *weight[1:]]
    attributes = {
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    _replace(node, "GatherBlockQuantized", inputs, attributes)
    if blocks.offsets is not None:
        _add_offsets(graph, node, blocks)


def _add_offsets(graph: ir.Graph, gather: ir.Node, blocks: Blocks) -> None:
    """Add the offsets at the end of each gathered row to the elements of their blocks."""
    import numpy as np
    import onnx_ir as ir

    width, size = blocks.codes.shape[1], blocks.block_size
    count = width // size
    gathered = gather.outputs[0]
    users = list(gathered.uses())
    assert gathered.dtype is not None
    # Rows are filled up to whole blocks.
    rest = -(width + count) % size
    sizes = [width, count, rest] if rest else [width, count]
    share = np.array(1 / size, gathered.dtype.numpy())
    constants = {
        name: _constant(graph, array, f"{gather.name}/offsets/{name}")
        for name, array in {
            "sizes": np.array(sizes),
            "axis": np.array([-1]),
            "blocks": np.array([0, 0, count, size]),
            "row": np.array([0, 0, width]),
            "share": share,
        }.items()
    }
    parts = ir.node("Split", [gathered, constants["sizes"]], {"axis": -1}, num_outputs=len(sizes))
    codes = ir.node("Reshape", [parts.outputs[0], constants["blocks"]])
    column = ir.node("Unsqueeze", [parts.outputs[1], constants["axis"]])
    offsets = ir.node("Mul", [column.outputs[0], constants["share"]])
    total = ir.node("Add", [codes.outputs[0], offsets.outputs[0]])
    row = ir.node("Reshape", [total.outputs[0], constants["row"]])
    nodes = [parts, codes, column, offsets, total, row]
    for number, node in enumerate(nodes):
        node.name = f"{gather.name}/offsets/{node.op_type}_{number}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}/output_{index}"
    graph.insert_after(gather, nodes)
    last = row.outputs[0]
    last.type, last.shape, gathered.shape = gathered.type, gathered.shape, None
    for user, index in users:
        user.replace_input_with(index, last)


def _constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    """Add an array as a node: shape inference does not read external initializers."""
    import onnx_ir as ir

    node = ir.node("Constant", [], {"value": ir.tensor(array)}, name=name)
    node.outputs[0].name = f"{name}/output_0"
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def _replace(
    node: ir.Node,
    operator: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, int],
    domain: str = _DOMAIN,
) -> None:
    """Replace operator, inputs and attributes of a node; its outputs stay."""
    import onnx_ir as ir

    node.op_type, node.domain = operator, domain
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    node.attributes.update({name: ir.AttrInt64(name, value) for name, value in attributes.items()})
