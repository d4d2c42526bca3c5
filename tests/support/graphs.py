"""Looking into ONNX graphs, and spoiling those of model folders."""

import shutil
from pathlib import Path
from typing import Any


def linear_bits(graph: Any) -> set[int]:
    """Bits a weight of the quantized linear layers; empty where there are none."""
    return {
        attribute.i
        for node in graph.node
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
        if attribute.name == "bits"
    }


def point_data_to(folder: Path, location: str) -> None:
    """Let the graph of a folder take its external data from another file."""
    import onnx

    graph = folder / "model.onnx"
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())


def rename_data(folder: Path, name: str) -> None:
    """Rename the external data of a folder, in its graph as well."""
    (folder / "model.onnx.data").rename(folder / name)
    point_data_to(folder, name)


NORM = "final_norm_layernorm.weight"
"""End of the name of the last norm's weight."""
POSITIONS = "cos_cache"
"""Name of a table with a row for each position."""


def filled(folder: Path, target: Path, value: float, tensor: str = NORM, row: int = 0) -> Path:
    """Copy a folder of the tiny model with a value in a tensor, from a row on; returns the copy."""
    import numpy as np
    import onnx

    shutil.copytree(folder, target)
    graph = onnx.load(str(target / "model.onnx"), load_external_data=False).graph
    (stored,) = (entry for entry in graph.initializer if entry.name.endswith(tensor))
    place = {entry.key: entry.value for entry in stored.external_data}
    values = np.full((stored.dims[0] - row, *stored.dims[1:]), value, np.float32).tobytes()
    with (target / place["location"]).open("r+b") as file:
        file.seek(int(place["offset"]) + int(place["length"]) - len(values))
        file.write(values)
    return target
