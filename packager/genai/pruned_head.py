"""The head of a built graph, which computes the logits of the last token alone.

The model builder's option `prune_lm_head` puts two nodes before the head. Answers need no other
logits, and a prompt's would take time and, in SmolLM2-135M, 25 MB a chunk: more in models with a
larger vocabulary. Measurements need those of all tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_PLACE = "/lm_head/prune/"


def hidden_states(graph: onnx.GraphProto, head: onnx.NodeProto) -> str:
    """Return the name of the states of all tokens that a head gets, or gets the last ones of.

    Args:
        graph: a decoder.
        head: its head.
    """
    before = {node.output[0]: node.input[0] for node in graph.node if _prunes(node)}
    name = head.input[0]
    while name in before:
        name = before[name]
    return str(name)


def whole(graph: onnx.GraphProto) -> None:
    """Have a graph compute the logits of all tokens, in place; one that does so stays."""
    nodes = [node for node in graph.node if _prunes(node)]
    if not nodes:
        return
    before = {node.output[0]: node.input[0] for node in nodes}
    for node in nodes:
        graph.node.remove(node)
    for node in graph.node:
        for index, name in enumerate(node.input):
            while name in before:
                name = before[name]
            node.input[index] = name
    # What was inferred behind the head has one token in its shape.
    del graph.value_info[:]
    for value in graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[1].dim_param = "sequence_length"


def _prunes(node: onnx.NodeProto) -> bool:
    return bool(node.name.startswith(_PLACE))
