"""Which linear layers of the Hugging Face model a node of the built graph holds.

The model builder joins query, key and value into one MatMul where it can, splits Phi-3's joined
gate and up projections, and calls Phi-2's `dense` an output projection. A calibrated weight belongs
to the linear layer it was found for, so the way back is needed.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

_NODE = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul")
_BLOCKS = {"attn": "self_attn", "mlp": "mlp"}
_JOINED_IN_GRAPH = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
_SPLIT_IN_GRAPH = {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1)}
_RENAMED_IN_GRAPH = {"o_proj": "dense"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the rows of a node's weight come from.

    Attributes:
        layer: index of the decoder layer.
        names: linear layers below it, `mlp.down_proj`, whose rows follow each other in the weight.
        half: 0 or 1 if the node has only the first or second half of those rows.
    """

    layer: int
    names: tuple[str, ...]
    half: int | None = None


def layer_and_name(node: str) -> tuple[int, str] | None:
    """Layer index and name (`mlp.down_proj`) of a decoder layer's MatMul; None for any other."""
    found = _NODE.fullmatch(node)
    return (int(found[1]), f"{_BLOCKS[found[2]]}.{found[3]}") if found else None


def origin(node: str, known: Collection[str]) -> Origin | None:
    """Where the weight of a node comes from.

    Args:
        node: its name in the graph.
        known: names of the linear layers of a decoder layer.

    Returns:
        None if the node is no linear layer's, or not of one that is known.
    """
    found = layer_and_name(node)
    if found is None:
        return None
    layer, name = found
    block, _, last = name.rpartition(".")
    split, half = _SPLIT_IN_GRAPH.get(last, ("", None))
    candidates: tuple[tuple[tuple[str, ...], int | None], ...] = (
        ((last,), None),
        (_JOINED_IN_GRAPH.get(last, ("",)), None),
        ((_RENAMED_IN_GRAPH.get(last, ""),), None),
        ((split,), half),
    )
    for parts, which in candidates:
        names = tuple(f"{block}.{part}" for part in parts)
        if all(each in known for each in names):
            return Origin(layer=layer, names=names, half=which)
    return None
