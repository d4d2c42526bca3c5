"""Looking into ONNX graphs."""

from typing import Any


def linear_bits(graph: Any) -> set[int]:
    """Bits a weight of the quantized linear layers; empty where there are none."""
    return {
        attribute.i
        for node in graph.node
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
        if attribute.name == "bits"
    }
