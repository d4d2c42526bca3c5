"""Tokens of a picture that see each other, in a decoder whose tokens see those before them.

The model builder writes causal attention for every token, and so are the folders that the makers
of ONNX Runtime GenAI publish. Here, a prompt with pictures takes another attention besides: not
causal, with a bias against what must not be seen. The one that was there goes on to fill the KV
cache, and does all the rest: an answer is as fast as before, and takes no more memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from packager.errors import QuantizeError

if TYPE_CHECKING:
    import onnx

_IDS, _MASK = "input_ids", "attention_mask"
_ATTENTION = "GroupQueryAttention"
_KEY, _PAST, _BIAS = 1, (3, 4), 10  # places of its inputs
_WINDOW = "local_window_size"
_OF_CAUSAL = ("causal", _WINDOW, "sliding_window_cache")

_PREFIX = "/model/both_ways/"
_CONDITION = f"{_PREFIX}has_image"
_BIASES = {False: f"{_PREFIX}bias", True: f"{_PREFIX}bias_near"}
"""Biases of attention without and with a sliding window."""

_FIND = """
    ids = Squeeze(input_ids, axis_0)
    is_image = Equal(ids, image_token)
    number = Cast<to=7>(is_image)
    largest = ReduceMax<keepdims=0>(number)
    any_image = Cast<to=9>(largest)
    length = Size(ids)
    mask_shape = Shape(attention_mask)
    total = Gather(mask_shape, one)
    is_first = Equal(length, total)
    has_image = And(any_image, is_first)
"""
"""Finds out whether this is a prompt with pictures."""

_COMPUTE = """
    part = Cast<to=7>(is_image)
    padded = Pad(part, pads)
    before = Slice(padded, axis_0, last)
    starts = Greater(part, before)
    start_number = Cast<to=7>(starts)
    picture = CumSum(start_number, zero)
    picture_column = Unsqueeze(picture, axis_1)
    same_picture = Equal(picture, picture_column)
    image_column = Unsqueeze(is_image, axis_1)
    both_image = And(is_image, image_column)
    joined = And(same_picture, both_image)
    key = Range(zero, length, one)
    query = Unsqueeze(key, axis_1)
    earlier = LessOrEqual(key, query)
    seen = Or(earlier, joined)
    first = Sub(query, window)
    is_near = Greater(key, first)
    seen_near = And(seen, is_near)
    matrix = Where(seen, nought, lowest)
    matrix_near = Where(seen_near, nought, lowest)
    bias = Unsqueeze(matrix, axes)
    bias_near = Unsqueeze(matrix_near, axes)
"""
"""Computes the biases [1, 1, tokens, tokens]; a token is a row."""

_SKIP = """
    bias = Reshape(nought, ones)
    bias_near = Reshape(nought, ones)
"""


def see_both_ways(model: onnx.ModelProto, image_token: int, dtype: int) -> None:
    """Let the tokens of each picture see each other, those after them included.

    Args:
        model: decoder, as the model builder writes it; `input_ids` becomes one of its inputs.
        image_token: id of the token that stands for a part of a picture.
        dtype: element type of its states.

    Raises:
        QuantizeError: its attention is of another form.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    layers = [node for node in graph.node if node.op_type == _ATTENTION]
    windows = {_window(node) for node in layers} - {0}
    if not layers or len(windows) > 1 or any(not node.input[_KEY] for node in layers):
        raise QuantizeError(
            "the text model's graph cannot take images: its attention is of an unknown form",
            hint="Build the text model alone: --text-only.",
        )
    element = helper.tensor_dtype_to_np_dtype(dtype)
    numbers = {
        **{"image_token": image_token, "zero": 0, "one": 1, "window": max(windows, default=0)},
        **{"axis_0": [0], "axis_1": [1], "axes": [0, 1], "pads": [1, 0], "last": [-1]},
        "ones": [1, 1, 1, 1],
    }
    arrays = {name: np.array(number, np.int64) for name, number in numbers.items()}
    arrays |= {"nought": np.zeros((), element), "lowest": np.array(np.finfo(element).min)}
    graph.initializer.extend(
        numpy_helper.from_array(array, _PREFIX + name) for name, array in arrays.items()
    )
    shape = ["batch_size", "sequence_length"]
    graph.input.append(helper.make_tensor_value_info(_IDS, TensorProto.INT64, shape))
    nodes = [*_nodes(_FIND), _if(list(_BIASES.values()), _nodes(_COMPUTE), _nodes(_SKIP), dtype)]
    for node in graph.node:
        nodes.append(node)
        if node.op_type == _ATTENTION:
            nodes.append(_beside(node, dtype))
    del graph.node[:]
    graph.node.extend(nodes)


def _window(node: onnx.NodeProto) -> int:
    """Return the number of tokens that an attention sees; 0 for all."""
    sizes = [attribute.i for attribute in node.attribute if attribute.name == _WINDOW]
    return int(max([0, *sizes]))


def _nodes(program: str) -> list[onnx.NodeProto]:
    """Read nodes, and put the prefix before all names but those of the decoder's inputs."""
    from onnx import parser

    nodes = list(parser.parse_graph(f"g () => () {{{program}}}").node)
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in (_IDS, _MASK) else _PREFIX + name for name in names]
        node.name = node.output[0]
    return nodes


def _beside(node: onnx.NodeProto, dtype: int) -> onnx.NodeProto:
    """Make the node that takes another attention's output in place of a causal one's."""
    from onnx import helper

    output = node.output[0]
    causal = f"{output}/causal"
    node.output[0] = causal
    other = type(node)()
    other.CopyFrom(node)
    other.name += "/both_ways"
    kept = [attribute for attribute in node.attribute if attribute.name not in _OF_CAUSAL]
    del other.attribute[:]
    other.attribute.extend([*kept, helper.make_attribute("causal", 0)])
    other.input.extend([""] * (_BIAS + 1 - len(other.input)))
    for place in _PAST:
        other.input[place] = ""
    other.input[_BIAS] = _BIASES[_window(node) > 0]
    other.output[:] = [output, *(f"{name}/both_ways" for name in node.output[1:])]
    return _if([output], [other], [helper.make_node("Identity", [causal], [output])], dtype)


def _if(
    names: list[str], then: list[onnx.NodeProto], otherwise: list[onnx.NodeProto], dtype: int
) -> onnx.NodeProto:
    """Make a node that gives the results of one of two branches.

    Names inside the branches must differ from each other's and from those of the results.
    """
    from onnx import helper

    graphs = {}
    for branch, nodes in (("then_branch", then), ("else_branch", otherwise)):
        inner = {name: f"{name}/{branch}" for name in names}
        for node in nodes:
            node.output[:] = [inner.get(name, name) for name in node.output]
        values = [helper.make_tensor_value_info(name, dtype, None) for name in inner.values()]
        graphs[branch] = helper.make_graph(nodes, branch, [], values)
    return helper.make_node("If", [_CONDITION], names, name=f"{names[0]}/If", **graphs)
