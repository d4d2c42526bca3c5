"""Three positions a token, in a decoder of the model builder whose tokens have one.

In Qwen2.5-VL, a token has a position in time, a row and a column (M-RoPE): parts of each head are
rotated by one of them. Those of text are equal, and so a text model has the same rotation inside of
its attention. Here it moves before the attention, into an operator that takes all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from packager.errors import QuantizeError

if TYPE_CHECKING:
    import onnx

POSITIONS = "position_ids"
"""Input with the positions, int64 [3, batch, tokens]: times, rows and columns."""

_ATTENTION = "GroupQueryAttention"
_QUERY, _KEY, _VALUE, _CACHES = 0, 1, 2, (7, 8)  # places of its inputs
_DOMAIN = "com.microsoft"


def take_three_positions(model: onnx.ModelProto, sections: tuple[int, ...]) -> None:
    """Let attention rotate queries and keys by positions that are an input.

    Args:
        model: decoder, as the model builder writes it; `POSITIONS` becomes one of its inputs.
        sections: how many pairs of each head's numbers times, rows and columns rotate.

    Raises:
        QuantizeError: its attention is of another form.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    halves = {tensor.name: tensor.dims[-1] for tensor in graph.initializer if tensor.dims}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == _ATTENTION:
            caches = [*node.input[_CACHES[0] : _CACHES[1] + 1]]
            if not _attributes(node).get("do_rotary") or {sum(sections)} != {
                halves.get(name) for name in caches
            }:
                raise QuantizeError(
                    "the text model's graph cannot take images: its rotary embedding is of an "
                    "unknown form",
                    hint="Build the text model alone: --text-only.",
                )
            nodes += _rotated(node, caches, sections)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    shape: list[str | int | None] = [3, "batch_size", "sequence_length"]
    graph.input.append(helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, shape))


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def _rotated(
    node: onnx.NodeProto, caches: list[str], sections: tuple[int, ...]
) -> Iterator[onnx.NodeProto]:
    """Take the rotation out of an attention; yields the nodes that do it before."""
    from onnx import helper

    attributes = _attributes(node)
    heads = (attributes["num_heads"], attributes["kv_num_heads"], attributes["kv_num_heads"])
    if not node.input[_KEY]:
        parts = [f"{node.name}/{name}" for name in ("query", "key", "value")]
        lengths = f"{node.name}/lengths"
        sizes = [2 * sum(sections) * count for count in heads]
        yield helper.make_node("Constant", [], [lengths], name=lengths, value_ints=sizes)
        packed = [node.input[_QUERY], lengths]
        yield helper.make_node("Split", packed, parts, name=f"{node.name}/Split", axis=-1)
        node.input[_QUERY : _VALUE + 1] = parts
    for place in (_QUERY, _KEY):
        name = f"{node.name}/MRotaryEmbedding_{place}"
        yield helper.make_node(
            "MRotaryEmbedding",
            [node.input[place], POSITIONS, *caches],
            [f"{name}/output_0"],
            name=name,
            domain=_DOMAIN,
            num_heads=heads[place],
            interleaved=attributes.get("rotary_interleaved", 0),
            mrope_section=sections,
        )
        node.input[place] = f"{name}/output_0"
    for place in _CACHES:
        node.input[place] = ""
    kept = [attribute for attribute in node.attribute if attribute.name != "do_rotary"]
    del node.attribute[:]
    node.attribute.extend(kept)
