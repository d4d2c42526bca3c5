"""Memory that a decode step of a built model reads, from its graph."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle.reads import Reads

if TYPE_CHECKING:
    import onnx

BY_ROW = {
    "Gather": {0},
    "GatherBlockQuantized": {0, 2, 3},
    "GroupQueryAttention": {7, 8},
    "RotaryEmbedding": {2, 3},
}
"""Inputs of which an operator reads the rows of its tokens or positions alone, by their numbers
(onnxruntime's ContribOperators.md)."""
EXPERTS = ("MoE", "QMoE")
"""Operators that read the weights of some experts; all inputs from the third on are weights."""


def of(folder: Path, *, cache_bytes: int, state_bytes: int) -> Reads:
    """Compute what a decode step reads.

    Args:
        folder: an ONNX GenAI folder.
        cache_bytes: size of the KV cache of one token.
        state_bytes: size of the states of layers that have one instead of a KV cache.
    """
    import onnx

    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    name = config["model"]["decoder"]["filename"]
    graph = onnx.load(str(folder / name), load_external_data=False).graph
    sizes = {tensor.name: tensor for tensor in graph.initializer}
    shares: dict[str, Fraction] = {}
    windows = []
    for node in _nodes(graph):
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "GroupQueryAttention":
            windows.append(max(0, numbers.get("local_window_size", -1)))
        for place, source in enumerate(node.input):
            if source not in sizes or place in BY_ROW.get(node.op_type, ()):
                continue
            share = Fraction(1)
            if node.op_type in EXPERTS and place >= 2:
                share = Fraction(numbers.get("k", 1), sizes[source].dims[0])
            shares[source] = max(share, shares.get(source, share))
    weights = sum(int(_size(sizes[source]) * share) for source, share in shares.items())
    # All layers have heads of the same size.
    local = cache_bytes * sum(map(bool, windows)) // max(1, len(windows))
    return Reads(
        weights=weights + state_bytes,
        cache=cache_bytes - local,
        windowed_cache=local,
        window=max(windows, default=0),
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """List the nodes, those of branches included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                yield from _nodes(branch)


def _size(tensor: onnx.TensorProto) -> int:
    """Return the size of a stored tensor, bytes."""
    import onnx

    fields = {entry.key: entry.value for entry in tensor.external_data}
    if "length" in fields:
        return int(fields["length"])
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return len(tensor.raw_data) or math.prod(tensor.dims) * itemsize
