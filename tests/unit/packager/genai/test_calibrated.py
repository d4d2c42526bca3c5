"""Calibrated weights, assembled for the nodes of a graph."""

from pathlib import Path

import pytest
import torch

from packager.genai.calibrated import CalibratedWeights
from packager.recipes import nodes
from packager.weights import blocks, stored
from packager.weights.blocks import Blocks
from packager.weights.stored import LinearError

QKV = "/model/layers.0/attn/qkv_proj/MatMul"
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
WEIGHT = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def _nearest(weight: torch.Tensor) -> Blocks:
    return blocks.nearest(weight, bits=4, block_size=32, symmetric=False)


@pytest.fixture
def calibrated(tmp_path: Path) -> CalibratedWeights:
    sizes = dict(zip(NAMES, (32, 16, 16), strict=True))
    rows = torch.split(WEIGHT, list(sizes.values()))
    for layer, parts in ((0, dict(zip(NAMES, rows, strict=True))), (None, {stored.HEAD: WEIGHT})):
        linears = {name: (_nearest(part), _error(name)) for name, part in parts.items()}
        stored.save(stored.file_of(tmp_path, layer), linears, {})
    return CalibratedWeights(tmp_path)


def _error(name: str) -> LinearError:
    return LinearError(layer=0, name=name, relative=0, nearest=0, absolute=0, parameters=1)


def test_a_fused_weight_is_one_part(calibrated: CalibratedWeights) -> None:
    parts = calibrated.find(QKV, WEIGHT)
    assert parts is not None
    assert len(parts) == 1
    assert torch.equal(parts[0].dequantize(), _nearest(WEIGHT).dequantize())


def test_a_sensitive_part_of_a_fused_weight_gets_8_bits_alone(
    calibrated: CalibratedWeights,
) -> None:
    parts = calibrated.find(QKV, WEIGHT, {"0.self_attn.v_proj"})
    assert parts is not None
    assert [(part.bits, len(part.codes)) for part in parts] == [(4, 48), (8, 16)]
    assert torch.equal(parts[0].dequantize(), _nearest(WEIGHT[:48]).dequantize())
    assert (parts[1].dequantize() - WEIGHT[48:]).abs().max() < 0.02


def test_the_head_is_found(calibrated: CalibratedWeights) -> None:
    parts = calibrated.find(nodes.HEAD, WEIGHT)
    assert parts is not None
    assert torch.equal(parts[0].dequantize(), _nearest(WEIGHT).dequantize())


def test_other_nodes_have_no_calibrated_weight(calibrated: CalibratedWeights) -> None:
    assert calibrated.find("/model/layers.0/mlp/down_proj/MatMul", WEIGHT) is None


@pytest.mark.parametrize(
    "weight", [WEIGHT.flip(0), WEIGHT[:60], torch.cat([WEIGHT, WEIGHT]), WEIGHT[:, :32]]
)
def test_the_weight_of_another_layer_is_refused(
    weight: torch.Tensor, calibrated: CalibratedWeights
) -> None:
    with pytest.raises(ValueError, match="does not match this layer"):
        calibrated.find(QKV, weight)
