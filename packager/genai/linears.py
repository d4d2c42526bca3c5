"""Map nodes of the built graph to linear layers of the Hugging Face model.

The model builder fuses query, key and value into one MatMul where it can, splits Phi-3's fused gate
and up projections, and names Phi-2's `dense` an output projection. Calibrated weights are stored by
linear layer, so the nodes must be mapped back.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

_NODE = re.compile(r"/model/layers\.(\d+)/(attn|mlp|linear_attn|conv)/(\w+)/MatMul")
_BLOCKS = {"attn": "self_attn"}
_BLOCKS_RENAMED = {"mlp": "feed_forward"}
_FUSED_IN_GRAPH = {
    # The last row: keys that are values as well.
    "qkv_proj": (("q_proj", "k_proj", "v_proj"), ("q_proj", "k_proj", "k_proj")),
}
_SPLIT_IN_GRAPH = {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1)}
_RENAMED_IN_GRAPH = {
    "o_proj": ("dense", "out_proj"),
    "gate_proj": ("w1",),
    "up_proj": ("w3",),
    "down_proj": ("w2",),
    "qkv_proj": ("in_proj_qkv",),
    "z_proj": ("in_proj_z",),
    "a_proj": ("in_proj_a",),
    "b_proj": ("in_proj_b",),
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Source of the rows of a node's weight.

    Attributes:
        layer: index of the decoder layer.
        names: linear layers below it (`mlp.down_proj`) whose rows are concatenated in the weight.
        half: 0 or 1 if the node has only the first or second half of these rows.
    """

    layer: int
    names: tuple[str, ...]
    half: int | None = None


def layer_and_name(node: str) -> tuple[int, str] | None:
    """Return layer index and name (`mlp.down_proj`) of a decoder layer's MatMul, else None."""
    match = _NODE.fullmatch(node)
    return (int(match[1]), f"{_BLOCKS.get(match[2], match[2])}.{match[3]}") if match else None


def origin(node: str, known: Collection[str]) -> Origin | None:
    """Find the linear layers that a node's weight comes from.

    Args:
        node: name of the node in the graph.
        known: names of the linear layers of a decoder layer.

    Returns:
        Their origin; None if the node is not that of known linear layers.
    """
    place = layer_and_name(node)
    if place is None:
        return None
    layer, name = place
    block, _, last = name.rpartition(".")
    split, half = _SPLIT_IN_GRAPH.get(last, ("", None))
    candidates: list[tuple[tuple[str, ...], int | None]] = [
        ((last,), None),
        *((parts, None) for parts in _FUSED_IN_GRAPH.get(last, ())),
        *(((other,), None) for other in _RENAMED_IN_GRAPH.get(last, ())),
        ((split,), half),
    ]
    for parts, which in candidates:
        for place_of in (block, _BLOCKS_RENAMED.get(block, block)):
            names = tuple(f"{place_of}.{part}" for part in parts)
            if all(name in known for name in names):
                return Origin(layer=layer, names=names, half=which)
    return None
