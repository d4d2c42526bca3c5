"""Graphs in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

from device_runtime.processor import cores
from packager.genai import pruned_head


def load(graph: Path) -> Any:
    """Load a graph, with as many threads as a device takes by itself."""
    return _session(str(graph), _options())


def load_whole(graph: Path) -> Any:
    """Load a decoder's graph, with logits of all tokens where it has those of the last alone."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    pruned_head.whole(model.graph)
    options = _options()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.parent)
    )
    return _session(model.SerializeToString(), options)


def _options() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cores()
    return options


def _session(model: str | bytes, options: Any) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
