"""The ONNX GenAI folder of a model that sees: its text model, whatever the recipe, and its vision
graph, joined as the engine loads them.

The engine runs three graphs: `vision.onnx` makes features of the pictures, `embedding.onnx` puts
them in place of the tokens that stand for them, and the decoder goes on from there. So the
embedding moves out of the text model's graph; the weights stay in the same file, which both read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.processor import HALF_GRAPH
from packager.errors import QuantizeError
from packager.vision.both_ways import see_both_ways
from packager.vision.exported import GRAPH, PROCESSOR, ExportedVision
from packager.vision.mrope import POSITIONS, take_three_positions

if TYPE_CHECKING:
    import onnx

EMBEDDING_GRAPH = "embedding.onnx"

_CONFIG = "genai_config.json"
_IDS, _FEATURES, _EMBEDS = "input_ids", "image_features", "inputs_embeds"
_TEXT_IDS = "text_ids"
_EMBEDDING_NODES = "/model/embed_tokens/"
_BATCH = ("batch_size", "sequence_length")


def attach(text: Path, vision: Path, exported: ExportedVision, target: Path) -> None:
    """Join a text model and a vision graph.

    Args:
        text: ONNX GenAI folder of the text model, as the model builder and our passes wrote it.
        vision: folder with the vision graph and the engine's image transforms.
        exported: what the export tells of them.
        target: folder to write; files that stay as they are become hard links.

    Raises:
        QuantizeError: the text model's graph is not of the form that the model builder writes.
    """
    import onnx

    config = json.loads((text / _CONFIG).read_text(encoding="utf-8"))
    name = config["model"]["decoder"]["filename"]
    changed = (_CONFIG, name, HALF_GRAPH, f"{HALF_GRAPH}.data")
    shutil.copytree(
        text,
        target,
        copy_function=os.link,
        ignore=shutil.ignore_patterns(*changed),
        dirs_exist_ok=True,
    )
    for path in vision.iterdir():
        os.link(path, target / path.name)
    whole = onnx.load(str(text / name), load_external_data=False)
    embedding, decoder = _split(whole, exported.image_token)
    if exported.both_ways and exported.image_token is not None:
        dtype = embedding.graph.output[0].type.tensor_type.elem_type
        see_both_ways(decoder, exported.image_token, dtype)
    if exported.sections:
        take_three_positions(decoder, exported.sections)
    onnx.save(embedding, str(target / EMBEDDING_GRAPH))
    onnx.save(decoder, str(target / name))
    _describe(config["model"], exported)
    (target / _CONFIG).write_text(json.dumps(config, indent=4) + "\n", newline="\n")


def _describe(model: dict[str, Any], exported: ExportedVision) -> None:
    """Write the sections of genai_config.json for the three graphs."""
    model.update(exported.tokens, type=exported.type)
    inputs = model["decoder"]["inputs"]
    if not exported.both_ways:
        del inputs[_IDS]
    inputs[_EMBEDS] = _EMBEDS
    if exported.sections:
        inputs[POSITIONS] = POSITIONS
    model["embedding"] = {
        "filename": EMBEDDING_GRAPH,
        "inputs": {_IDS: _IDS, _FEATURES: _FEATURES},
        "outputs": {_EMBEDS: _EMBEDS},
    }
    model["vision"] = {
        "filename": GRAPH,
        "config_filename": PROCESSOR,
        "inputs": {name: name for name in exported.inputs},
        "outputs": {_FEATURES: _FEATURES},
        **exported.sizes,
    }


def _split(
    whole: onnx.ModelProto, image_token: int | None
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Split a graph behind its embedding; the first part also places image features.

    Args:
        whole: graph of the text model.
        image_token: as in `ExportedVision`.
    """
    from onnx import TensorProto, helper

    graph = whole.graph
    cut = _cut(graph)
    dtype, width = _type_of(graph, cut)
    before = _needed(graph, [cut])
    behind = _needed(graph, [output.name for output in graph.output], given=cut)
    if _IDS in {name for node in behind for name in node.input}:
        raise _unknown("its decoder needs the token ids themselves")

    embeds = helper.make_tensor_value_info(_EMBEDS, dtype, [*_BATCH, width])
    ids = helper.make_tensor_value_info(_IDS, TensorProto.INT64, list(_BATCH))
    # Their rank is left open: without pictures, the engine gives [0, width] whatever it was before.
    features = helper.make_tensor_value_info(_FEATURES, dtype, None)
    pictures, placing = _placing(cut, width, image_token)
    gathering = [_renamed(node, _IDS, _TEXT_IDS) for node in before]
    embedding = _part(whole, [*pictures, *gathering, *placing], [ids, features], [embeds])
    inputs = [embeds, *(value for value in graph.input if value.name != _IDS)]
    decoding = [_renamed(node, cut, _EMBEDS) for node in behind]
    return embedding, _part(whole, decoding, inputs, list(graph.output))


def _cut(graph: onnx.GraphProto) -> str:
    """Return the name of the tensor that the embedding ends with."""
    inside = [node for node in graph.node if node.name.startswith(_EMBEDDING_NODES)]
    outside = {name for node in graph.node if node not in inside for name in node.input}
    # What is shared with the head is made of weights alone.
    ends: set[str] = {
        name
        for node in inside
        for name in node.output
        if name in outside and _takes_ids(graph, name)
    }
    if len(ends) != 1:
        raise _unknown(f"its embedding has {len(ends)} outputs")
    (end,) = ends
    return end


def _takes_ids(graph: onnx.GraphProto, name: str) -> bool:
    return any(_IDS in node.input for node in _needed(graph, [name]))


def _needed(graph: onnx.GraphProto, names: Iterable[str], given: str = "") -> list[onnx.NodeProto]:
    """List the nodes that tensors are computed by, in the graph's order.

    Args:
        graph: the graph.
        names: the tensors.
        given: a tensor that is there already.
    """
    makers = {name: node for node in graph.node for name in node.output}
    wanted, needed = list(names), set()
    while wanted:
        name = wanted.pop()
        if name != given and name in makers and id(makers[name]) not in needed:
            needed.add(id(makers[name]))
            wanted += makers[name].input
    return [node for node in graph.node if id(node) in needed]


def _type_of(graph: onnx.GraphProto, name: str) -> tuple[int, int]:
    """Return the element type of a tensor, and its last dimension."""
    for value in graph.value_info:
        if value.name == name:
            tensor = value.type.tensor_type
            return tensor.elem_type, tensor.shape.dim[-1].dim_value
    raise _unknown("the shape of its embedding is not written")


def _placing(
    cut: str, width: int, image_token: int | None
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Make the nodes that tell pictures from text, and those that place features.

    The engine gives as many features as there are tokens of pictures; none after the prompt.
    """
    from onnx import TensorProto, helper

    def constant(name: str, values: list[int]) -> onnx.NodeProto:
        shape = [] if len(values) == 1 else [len(values)]
        tensor = helper.make_tensor(name, TensorProto.INT64, shape, values)
        return helper.make_node("Constant", [], [name], value=tensor)

    compared, token = ("Less", 0) if image_token is None else ("Equal", image_token)
    pictures = [
        constant("image_token", [token]),
        constant("first_token", [0]),
        constant("feature_shape", [-1, width]),
        helper.make_node(compared, [_IDS, "image_token"], ["is_image"]),
        # Any token: its embedding is written over.
        helper.make_node("Where", ["is_image", "first_token", _IDS], [_TEXT_IDS]),
    ]
    placing = [
        helper.make_node("NonZero", ["is_image"], ["places"]),
        helper.make_node("Transpose", ["places"], ["indices"], perm=[1, 0]),
        helper.make_node("Reshape", [_FEATURES, "feature_shape"], ["features"]),
        helper.make_node("ScatterND", [cut, "indices", "features"], [_EMBEDS]),
    ]
    return pictures, placing


def _renamed(node: onnx.NodeProto, name: str, new: str) -> onnx.NodeProto:
    """Copy a node with another name of a tensor that it takes."""
    copy = type(node)()
    copy.CopyFrom(node)
    for place, taken in enumerate(copy.input):
        if taken == name:
            copy.input[place] = new
    return copy


def _part(
    whole: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Make a graph of some nodes of another, with the weights that they take."""
    from onnx import helper

    taken = {name for node in nodes for name in node.input}
    computed = {name for node in nodes for name in node.output}
    graph = helper.make_graph(
        nodes,
        whole.graph.name,
        inputs,
        outputs,
        [weight for weight in whole.graph.initializer if weight.name in taken],
        value_info=[value for value in whole.graph.value_info if value.name in computed],
    )
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _unknown(reason: str) -> QuantizeError:
    return QuantizeError(
        f"the text model's graph cannot take images: {reason}",
        hint="Build the text model alone: --text-only.",
    )
