"""From a node of the graph back to the linear layers whose rows it has."""

import pytest

from packager.genai.linears import Origin, origin

LLAMA = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
PHI3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
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
