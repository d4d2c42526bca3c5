"""The graph pass: what the quantized graph computes is what the codes stand for."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from packager.genai import nbits
from packager.recipes import nodes
from packager.weights import blocks, kquant
from packager.weights.blocks import Blocks

VOCABULARY, WIDTH, MIDDLE = 96, 64, 48


def tied_model(embedding: torch.Tensor, body: torch.Tensor) -> ir.Model:
    """Embedding, one MatMul of the body, head: as the model builder names them."""
    ids = ir.val("input_ids", ir.DataType.INT64, ["n"])
    weights = {
        "model.embed_tokens.weight": embedding,
        "body.weight": body.T.contiguous(),
        "lm_head.MatMul.weight": embedding.T.contiguous(),
    }
    values = {}
    for name, weight in weights.items():
        tensor = ir.tensor(weight.numpy(), name=name)
        values[name] = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
    gather = ir.node("Gather", [values["model.embed_tokens.weight"], ids], name=nodes.EMBEDDING)
    name = "/model/layers.0/mlp/down_proj/MatMul"
    middle = ir.node("MatMul", [gather.outputs[0], values["body.weight"]], name=name)
    head = ir.node("MatMul", [middle.outputs[0], values["lm_head.MatMul.weight"]], name=nodes.HEAD)
    for number, node in enumerate((gather, middle, head)):
        node.outputs[0].name = f"out{number}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    head.outputs[0].shape = ir.Shape(["n", VOCABULARY])
    graph = ir.Graph(
        [ids],
        [head.outputs[0]],
        nodes=[gather, middle, head],
        initializers=list(values.values()),
        opset_imports={"": 21},
        name="tied",
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_computes_what_the_codes_stand_for(
    tmp_path: Path, bits: int, symmetric: bool, tied: bool
) -> None:
    torch.manual_seed(0)
    embedding, body = torch.randn(VOCABULARY, WIDTH), torch.randn(WIDTH, WIDTH)
    made: dict[str, Blocks] = {}

    def quantizer(name: str, weight: torch.Tensor) -> Blocks:
        made[name] = blocks.nearest(weight, bits=bits, block_size=32, symmetric=symmetric)
        return made[name]

    model = tied_model(embedding, body)
    nbits.quantize_graph(model, quantizer, tied=tied, accuracy_level=1)
    assert {node.op_type for node in model.graph} >= {"MatMulNBits", "GatherBlockQuantized"}
    # A tied embedding is stored once.
    assert (nodes.EMBEDDING in made) is not tied
    assert not {"model.embed_tokens.weight", "lm_head.MatMul.weight"} & set(
        model.graph.initializers
    )

    ir.save(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.arange(VOCABULARY)
    (found,) = session.run(None, {"input_ids": ids})
    head = made[nodes.HEAD].dequantize()
    first = head if tied else made[nodes.EMBEDDING].dequantize()
    middle = made["/model/layers.0/mlp/down_proj/MatMul"].dequantize()
    np.testing.assert_allclose(found, (first @ middle.T @ head.T).numpy(), rtol=1e-3, atol=2e-2)


def test_leaves_what_the_quantizer_leaves() -> None:
    model = tied_model(torch.randn(VOCABULARY, WIDTH), torch.randn(WIDTH, WIDTH))
    nbits.quantize_graph(model, lambda *_: None, tied=False, accuracy_level=0)
    assert {node.op_type for node in model.graph} == {"Gather", "MatMul"}


def test_kquant_loses_less_than_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 100) + 0.3  # the last block is not full
    importance = weight.abs() + weight.square().mean().sqrt()

    def loss(found: Blocks) -> float:
        assert found.codes.shape == weight.shape
        return float((importance * (found.dequantize() - weight).square()).sum())

    fitted = loss(kquant.fit(weight, bits=4, block_size=32))
    rounded = loss(blocks.nearest(weight, bits=4, block_size=32, symmetric=False))
    assert fitted < rounded < loss(blocks.nearest(weight, bits=4, block_size=32, symmetric=True))


def test_kquant_of_zeros_is_zero() -> None:
    assert not kquant.fit(torch.zeros(2, 64), bits=4, block_size=32).dequantize().any()
