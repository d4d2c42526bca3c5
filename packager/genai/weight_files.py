"""Graphs of an ONNX GenAI folder, and the files that their weights are in, by any name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.processor import HALF_GRAPH

if TYPE_CHECKING:
    import onnx


def graphs(folder: Path) -> list[Path]:
    """List the graphs: those that genai_config.json names, missing ones included, and the second
    one of `half_graph`."""
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    second = [HALF_GRAPH] if (folder / HALF_GRAPH).is_file() else []
    return [folder / name for name in dict.fromkeys([*_filenames(model), *second])]


def external(graph: Path) -> dict[str, int]:
    """Read which external files a graph takes weights from, and their least sizes, bytes.

    The locations are those in the graph (`external_data` in onnx.proto), relative to its folder.

    Raises:
        ValueError: the file is not an ONNX graph.
    """
    sizes: dict[str, int] = {}
    for tensor in _tensors(_load(graph).graph):
        if tensor.external_data:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            end = int(fields.get("offset", 0)) + int(fields.get("length", 0))
            location = fields.get("location", "")
            sizes[location] = max(sizes.get(location, 0), end)
    return sizes


def model_files(folder: Path) -> list[Path]:
    """List the graphs and the external files of their weights."""
    listed = graphs(folder)
    listed += [graph.parent / name for graph in listed for name in external(graph)]
    return list(dict.fromkeys(listed))


def weight_files(folder: Path) -> list[Path]:
    """List the files that consist of weights: external ones, and graphs with weights inside."""
    listed = graphs(folder)
    inside = [graph for graph in listed if _is_mostly_weights(graph)]
    return [path for path in model_files(folder) if path in inside or path not in listed]


def model_bytes(folder: Path) -> int:
    """Compute the size of graphs and weights, bytes."""
    return sum(path.stat().st_size for path in model_files(folder))


def _filenames(section: Any) -> Iterator[str]:
    """Find the graphs below a section of genai_config.json; a pipeline is a list of sections."""
    if isinstance(section, list):
        for part in section:
            yield from _filenames(part)
    elif isinstance(section, dict):
        if isinstance(section.get("filename"), str):
            yield section["filename"]
        for part in section.values():
            yield from _filenames(part)


def _load(graph: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if not model.graph.node:
        raise ValueError("it has no nodes")
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """List initializers and constants, those of branches included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for branch in (attribute.g, *attribute.graphs):
                yield from _tensors(branch)


def _is_mostly_weights(graph: Path) -> bool:
    stored = sum(len(tensor.raw_data) for tensor in _tensors(_load(graph).graph))
    return 2 * stored > graph.stat().st_size
