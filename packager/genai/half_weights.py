"""Weights in half precision in a graph that computes in fp32: half the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

LARGE = 1024
"""Elements of a weight that is worth half precision."""


def store_in_half(model: ir.Model) -> None:
    """Store the large weights of a graph in half precision, with a Cast to fp32, in place.

    ONNX Runtime casts weights once, while it loads the graph; of an embedding table, the rows that
    a text needs are cast.
    """
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    for value in list(graph.initializers.values()):
        weight = value.const_value
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.size < LARGE:
            continue
        array = weight.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.isfinite(half).all():
            _cast(graph, value, half)


def _cast(graph: ir.Graph, value: ir.Value, half: np.ndarray) -> None:
    """Replace a weight by one in half precision with a Cast, behind the Gather of a table."""
    import onnx_ir as ir

    name = str(value.name)
    users = list(value.uses())
    tensor = ir.tensor(half, name=f"{name}.half")
    stored = ir.Value(
        name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(stored)
    gathers = [node for node, index in users if node.op_type == "Gather" and index == 0]
    if len(gathers) == len(users) == 1:
        (gather,) = gathers
        rows = gather.outputs[0]
        rows.type = None
        gather.replace_input_with(0, stored)
        after = list(rows.uses())
        cast = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
        graph.insert_after(gather, cast)
    else:
        after = users
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
        graph.insert_before(graph[0], cast)
    cast.outputs[0].name = f"{name}/Cast/output_0"
    for node, index in after:
        node.replace_input_with(index, cast.outputs[0])
    del graph.initializers[name]
