"""A second graph in a model folder that computes in half precision, with the weights of the first.

A GPU with fp16 arithmetic is faster with half-precision activations, and one without cannot run
such a graph; the device chooses. Codes, scales and zero points are shared, so the second graph adds
little: norms, rotary tables, and itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.processor import HALF_GRAPH
from packager.errors import QuantizeError
from packager.genai import weight_files

if TYPE_CHECKING:
    import onnx

_QUANTIZED = ("MatMulNBits", "GatherBlockQuantized")


def add(folder: Path, half: Path) -> None:
    """Add the graph of one ONNX GenAI folder to another.

    The builder reads weights in the precision of the graph, so that codes may differ by rounding:
    all that both graphs have in the same form is taken from the first.

    Args:
        folder: folder to add to.
        half: folder that was built in half precision from the same model with the same recipe.

    Raises:
        QuantizeError: the graphs differ in inputs, outputs or the form of a quantized weight.
    """
    import onnx

    (first_path,), (second_path,) = weight_files.graphs(folder), weight_files.graphs(half)
    first = onnx.load(str(first_path), load_external_data=False)
    second = onnx.load(str(second_path), load_external_data=False)
    if _form(first) != _form(second):
        raise QuantizeError(
            "the graph in half precision is not of the form of that in single precision",
            hint="Set use_webgpu_fp32 = true under [quantization] of the profile to leave it out.",
        )
    shared = {_key(tensor): place for tensor, place, _ in _stored(first, folder)}
    own = f"{HALF_GRAPH}.data"
    with (folder / own).open("wb") as file:
        for tensor, _, data in _stored(second, half):
            location, offset = shared.get(_key(tensor), (own, file.tell()))
            if location == own:
                file.write(data)
            del tensor.external_data[:]
            entries = {"location": location, "offset": offset, "length": len(data)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    onnx.save(second, str(folder / HALF_GRAPH))


def _key(tensor: onnx.TensorProto) -> tuple[Any, ...]:
    return tensor.name, tensor.data_type, *tensor.dims


def _form(model: onnx.ModelProto) -> tuple[Any, ...]:
    """Return what both graphs must have alike: inputs, outputs, and how weights are quantized."""
    graph = model.graph
    weights = {
        node.name: (
            node.op_type,
            len(node.input),
            sorted((attribute.name, attribute.i) for attribute in node.attribute),
        )
        for node in graph.node
        if node.op_type in _QUANTIZED
    }
    return {value.name for value in graph.input}, {value.name for value in graph.output}, weights


def _stored(
    model: onnx.ModelProto, folder: Path
) -> Iterator[tuple[onnx.TensorProto, tuple[str, int], memoryview]]:
    """Yield the weights in external files: tensor, file and offset, bytes."""
    files: dict[str, memoryview] = {}
    for tensor in model.graph.initializer:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        if not fields:
            continue
        location, start = fields["location"], int(fields.get("offset", 0))
        if location not in files:
            with (folder / location).open("rb") as file:
                files[location] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield tensor, (location, start), files[location][start : start + int(fields["length"])]
