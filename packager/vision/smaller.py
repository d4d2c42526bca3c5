"""Vision graphs with smaller weights."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle.vision import VisionWeights
from packager.genai import nbits
from packager.genai.half_weights import store_in_half
from packager.vision.exported import GRAPH

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

    from packager.weights.blocks import Blocks

BLOCK_SIZE = 32
ACCURACY_LEVEL = 4
"""As text models have it on CPUs: the kernel multiplies 8-bit weights and 8-bit activations."""


def store(source: Path, target: Path, weights: VisionWeights) -> None:
    """Write a vision folder with smaller weights; the files beside the graph are linked.

    `fp16` stores all large weights in half precision, and computes with them in fp32. `int8` stores
    those of linear layers in blocks of 8 bits; convolutions, which make the patches, and positions
    stay in fp32.

    Args:
        source: folder with the vision graph in fp32.
        target: folder to write into.
        weights: type of the weights.
    """
    import onnx_ir as ir

    data = f"{GRAPH}.data"
    with tempfile.TemporaryDirectory(dir=target) as folder:
        # Weights in a file with several links are refused, and the models that were joined from it
        # are such links.
        for path in source.iterdir():
            if path.name in (GRAPH, data):
                shutil.copyfile(path, Path(folder, path.name))
            else:
                os.link(path, target / path.name)
        model = ir.load(Path(folder, GRAPH))
        if weights == "fp16":
            store_in_half(model)
        elif weights == "int8":
            _separate_biases(model.graph)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the mapped file cannot be written to
                nbits.quantize_graph(model, _eight_bits, tied=False, accuracy_level=ACCURACY_LEVEL)
        ir.save(model, target / GRAPH, external_data=data)


def _eight_bits(_name: str, weight: Tensor) -> list[Blocks]:
    from packager.weights import blocks

    return [blocks.eight_bits(weight, block_size=BLOCK_SIZE)]


def _separate_biases(graph: ir.Graph) -> None:
    """Turn linear layers that are one operator with their bias into MatMul and Add."""
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "Gemm" or len(node.inputs) < 3:
            continue
        old, bias = node.inputs[1:]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        factors = {attributes.get(name, 1.0) for name in ("alpha", "beta")}
        stored = old.const_value if old is not None else None
        if old is None or stored is None or attributes.get("transA") or factors != {1.0}:
            continue
        array = stored.numpy()
        name = f"{node.name}.weight"
        tensor = ir.tensor(array.T.copy() if attributes.get("transB") else array, name=name)
        weight = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(weight)
        product = ir.node("MatMul", [node.inputs[0], weight], name=f"{node.name}/MatMul")
        product.outputs[0].name = f"{product.name}/output_0"
        graph.insert_before(node, product)
        node.op_type = "Add"
        node.attributes.clear()
        node.resize_inputs(2)
        node.replace_input_with(0, product.outputs[0])
        node.replace_input_with(1, bias)
        if not old.uses():
            del graph.initializers[str(old.name)]
