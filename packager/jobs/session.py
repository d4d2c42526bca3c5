"""Graphs in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

from device_runtime.processor import cores


def load(graph: Path) -> Any:
    """Load a graph, with as many threads as a device takes by itself."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cores()
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
