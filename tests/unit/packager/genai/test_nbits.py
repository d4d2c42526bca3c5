"""The graph pass: what the quantized graph computes is what the codes stand for."""

from dataclasses import replace
from functools import partial
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

VOCABULARY, WIDTH = 96, 64
BODY = "/model/layers.0/mlp/down_proj/MatMul"


def tied_model(embedding: torch.Tensor, body: torch.Tensor) -> ir.Model:
    """Embedding, one MatMul of the body, head: as the model builder names them."""
    ids = ir.val("input_ids", ir.DataType.INT64, [1, "n"])
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
    middle = ir.node("MatMul", [gather.outputs[0], values["body.weight"]], name=BODY)
    head = ir.node("MatMul", [middle.outputs[0], values["lm_head.MatMul.weight"]], name=nodes.HEAD)
    for number, node in enumerate((gather, middle, head)):
        node.outputs[0].name = f"out{number}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    head.outputs[0].shape = ir.Shape([1, "n", VOCABULARY])
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

    def quantizer(name: str, weight: torch.Tensor) -> list[Blocks]:
        made[name] = blocks.nearest(weight, bits=bits, block_size=32, symmetric=symmetric)
        return [made[name]]

    model = tied_model(embedding, body)
    nbits.quantize_graph(model, quantizer, tied=tied, accuracy_level=1)
    assert {node.op_type for node in model.graph} >= {"MatMulNBits", "GatherBlockQuantized"}
    # A tied embedding is stored once.
    assert (nodes.EMBEDDING in made) is not tied
    assert not {"model.embed_tokens.weight", "lm_head.MatMul.weight"} & set(
        model.graph.initializers
    )

    found = run(model, tmp_path)
    head = as_stored(made[nodes.HEAD])
    first = head if tied else as_stored(made[nodes.EMBEDDING])
    middle = as_stored(made[BODY])
    np.testing.assert_allclose(found, (first @ middle.T @ head.T).numpy(), rtol=1e-3, atol=2e-2)


def run(model: ir.Model, folder: Path) -> np.ndarray:
    """Run a model on all tokens."""
    ir.save(model, folder / "model.onnx")
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": np.arange(VOCABULARY)[None]})
    found: np.ndarray = logits[0]
    return found


def as_stored(weight: Blocks) -> torch.Tensor:
    """Return what the codes stand for with scales in half precision."""
    offsets = weight.offsets
    if offsets is not None:
        offsets = replace(offsets, scales=offsets.scales.half().float())
    return replace(weight, scales=weight.scales.half().float(), offsets=offsets).dequantize()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("tied", [True, False])
def test_offsets_are_added(tmp_path: Path, bits: int, block_size: int, tied: bool) -> None:
    torch.manual_seed(0)
    model = tied_model(torch.randn(VOCABULARY, WIDTH), torch.randn(WIDTH, WIDTH))
    nearest = partial(blocks.nearest, bits=bits, block_size=block_size, symmetric=False)
    made: dict[str, Blocks] = {}

    def quantizer(name: str, weight: torch.Tensor) -> list[Blocks]:
        offsets = nearest(torch.randn(len(weight), WIDTH // block_size))
        made[name] = replace(nearest(weight), offsets=offsets)
        return [made[name]]

    nbits.quantize_graph(model, quantizer, tied=tied, accuracy_level=1)
    found = run(model, tmp_path)
    first, middle, head = (
        as_stored(made[name])
        for name in (nodes.HEAD if tied else nodes.EMBEDDING, BODY, nodes.HEAD)
    )
    np.testing.assert_allclose(found, (first @ middle.T @ head.T).numpy(), rtol=1e-3, atol=2e-2)


def test_rows_of_a_weight_can_have_forms_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tied_model(torch.randn(VOCABULARY, WIDTH), torch.randn(WIDTH, WIDTH))
    made: dict[str, list[Blocks]] = {}

    def quantizer(name: str, weight: torch.Tensor) -> list[Blocks]:
        made[name] = [blocks.nearest(weight, bits=4, block_size=32, symmetric=False)]
        if name == BODY:
            offsets = blocks.nearest(torch.randn(16, 2), bits=4, block_size=32, symmetric=False)
            made[name] = [
                blocks.nearest(weight[:40], bits=4, block_size=32, symmetric=False),
                blocks.eight_bits(weight[40:48], block_size=16),
                replace(made[name][0].rows(slice(48, 64)), offsets=offsets),
            ]
        return made[name]

    nbits.quantize_graph(model, quantizer, tied=False, accuracy_level=1)
    found = run(model, tmp_path)
    first, middle, head = (
        torch.cat([as_stored(part) for part in made[name]])
        for name in (nodes.EMBEDDING, BODY, nodes.HEAD)
    )
    np.testing.assert_allclose(found, (first @ middle.T @ head.T).numpy(), rtol=1e-3, atol=2e-2)


def test_nodes_of_one_input_share_its_means() -> None:
    weight = torch.randn(WIDTH, WIDTH)
    model = tied_model(torch.randn(VOCABULARY, WIDTH), weight)
    graph = model.graph
    body = next(node for node in graph if node.name == BODY)
    twin = ir.node("MatMul", list(body.inputs), name=BODY.replace("down", "up"))
    twin.outputs[0].name, twin.outputs[0].type = "twin", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(body, twin)
    nearest = partial(blocks.nearest, bits=4, block_size=32, symmetric=False)
    quantized = nearest(weight)
    offsets = nearest(torch.randn(WIDTH, WIDTH // 32))

    def quantizer(name: str, _: torch.Tensor) -> list[Blocks] | None:
        return [replace(quantized, offsets=offsets)] if "proj" in name else None

    nbits.quantize_graph(model, quantizer, tied=False, accuracy_level=0)
    operators = [node.op_type for node in graph]
    assert operators.count("MatMulNBits") == 2
    assert operators.count("AveragePool") == 1


def test_scales_that_half_precision_cannot_hold_stay_float() -> None:
    model = tied_model(torch.randn(VOCABULARY, WIDTH), torch.full((WIDTH, WIDTH), 1e-8))
    nearest = partial(blocks.nearest, bits=4, block_size=32, symmetric=True)
    nbits.quantize_graph(model, lambda _, weight: [nearest(weight)], tied=True, accuracy_level=0)
    dtypes = {
        name: value.dtype for name, value in model.graph.initializers.items() if "scales" in name
    }
    assert dtypes == {
        "lm_head.MatMul.scales": ir.DataType.FLOAT16,
        "model.layers.0.mlp.down_proj.MatMul.scales": ir.DataType.FLOAT,
    }


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
