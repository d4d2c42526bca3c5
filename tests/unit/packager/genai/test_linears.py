"""From a node of the graph back to the linear layers whose rows it has."""

import pytest

from packager.genai.linears import Origin, origin

LLAMA = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
PHI3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
LFM2 = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    *("conv.in_proj", "conv.out_proj", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)
QWEN3_5 = ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj")
GEMMA4 = ("self_attn.q_proj", "self_attn.k_proj")
PHI2 = ("self_attn.q_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2")


@pytest.mark.parametrize(
    ("node", "known", "expected"),
    [
        ("/model/layers.3/mlp/down_proj/MatMul", LLAMA, (3, ("mlp.down_proj",), None)),
        (
            "/model/layers.0/attn/qkv_proj/MatMul",
            LLAMA,
            (0, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), None),
        ),
        ("/model/layers.0/attn/qkv_proj/MatMul", PHI3, (0, ("self_attn.qkv_proj",), None)),
        ("/model/layers.12/mlp/gate_proj/MatMul", PHI3, (12, ("mlp.gate_up_proj",), 0)),
        ("/model/layers.12/mlp/up_proj/MatMul", PHI3, (12, ("mlp.gate_up_proj",), 1)),
        ("/model/layers.1/attn/o_proj/MatMul", PHI2, (1, ("self_attn.dense",), None)),
        ("/model/layers.1/mlp/fc2/MatMul", PHI2, (1, ("mlp.fc2",), None)),
        ("/model/layers.1/mlp/gate_proj/MatMul", LFM2, (1, ("feed_forward.w1",), None)),
        ("/model/layers.1/mlp/down_proj/MatMul", LFM2, (1, ("feed_forward.w2",), None)),
        ("/model/layers.1/attn/o_proj/MatMul", LFM2, (1, ("self_attn.out_proj",), None)),
        ("/model/layers.0/conv/in_proj/MatMul", LFM2, (0, ("conv.in_proj",), None)),
        (
            "/model/layers.0/linear_attn/qkv_proj/MatMul",
            QWEN3_5,
            (0, ("linear_attn.in_proj_qkv",), None),
        ),
        ("/model/layers.0/linear_attn/z_proj/MatMul", QWEN3_5, (0, (QWEN3_5[1],), None)),
        (
            "/model/layers.5/attn/qkv_proj/MatMul",
            GEMMA4,
            (5, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.k_proj"), None),
        ),
    ],
)
def test_where_a_weight_comes_from(
    node: str, known: tuple[str, ...], expected: tuple[int, tuple[str, ...], int | None]
) -> None:
    layer, names, half = expected
    assert origin(node, known) == Origin(layer=layer, names=names, half=half)


@pytest.mark.parametrize(
    "node",
    ["/lm_head/MatMul", "/model/layers.0/mlp/experts/MatMul", "/model/layers.x/attn/q/MatMul"],
)
def test_others_come_from_none(node: str) -> None:
    assert origin(node, LLAMA) is None
