"""Vision towers and projectors of transformers: their weights, and their graphs."""

import json
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager.vision import attention
from packager.vision.exported import GRAPH, VisionError
from packager.weights import checkpoint

PIXELS = "pixel_values"

LARGEST_ERROR = 1e-3
"""Largest difference between the graph's features and those of torch, as a share of the largest
feature, above which the graph is refused."""

_FEATURES = "image_features"
_OPSET = 17
_PLACES = re.compile(r"(?:model\.)?(vision_tower|multi_modal_projector)\.(?:vision_model\.)?")
"""Prefixes of the tensors, as publishers and transformers write them."""


def load(source: Path, model_type: str, projector: Any) -> tuple[Any, Any, Any]:
    """Load the vision tower and the projector of a Hugging Face folder, in fp32.

    Args:
        source: Hugging Face folder of the whole model.
        model_type: type of the tower that is meant.
        projector: class of the projector; takes the configuration.

    Returns:
        The configuration of the whole model, the tower and the projector.

    Raises:
        VisionError: it is another tower, or weights are missing, quantized or have other shapes.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(source)
    tower = config.vision_config
    if tower.model_type != model_type:
        raise VisionError(f"its vision tower is {tower.model_type}, not {model_type}")
    attention.register()
    parts = {
        "vision_tower": AutoModel.from_config(
            tower, dtype=torch.float32, attn_implementation=attention.NAME
        ),
        "multi_modal_projector": projector(config),
    }
    fill(parts, source, _PLACES)
    return config, *parts.values()


def fill(parts: Mapping[str, Any], source: Path, places: re.Pattern[str]) -> None:
    """Give modules their weights.

    Args:
        parts: the modules by name, in fp32.
        source: Hugging Face folder with the weights.
        places: prefixes of their tensors; the first group is the name of the module.

    Raises:
        VisionError: weights are missing, quantized or have other shapes.
    """
    from safetensors import safe_open

    tensors: dict[str, dict[str, Any]] = {name: {} for name in parts}
    for path in checkpoint.files(source):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if place := places.match(name):
                    tensors[place[1]][name[place.end() :]] = file.get_tensor(name)
    for name, part in parts.items():
        own = tensors[name]
        wrong = [
            key
            for key, expected in part.state_dict().items()
            if key not in own or own[key].shape != expected.shape or own[key].element_size() < 2
        ]
        if wrong:
            raise VisionError(
                f"{len(wrong)} tensors of its {name} are missing, quantized or of another shape "
                f"than its configuration says, such as {wrong[0]}"
            )
        # A head that the configuration does not have is not used either.
        part.load_state_dict(own, strict=False)
        part.eval()


def write_graph(
    module: Any,
    target: Path,
    *,
    traced: Mapping[str, Any],
    compared: Mapping[str, Any],
    axes: Mapping[str, Sequence[str]],
) -> None:
    """Write a module as the vision graph, its weights in a file beside it.

    Args:
        module: makes features of pictures.
        target: the folder.
        traced: inputs to trace it with, by name, in their order.
        compared: inputs that graph and module must make the same features of.
        axes: names of the dimensions of inputs that may change; an empty name is a constant one.

    Raises:
        VisionError: the graph computes other features than torch.
    """
    import onnx_ir as ir
    import onnxruntime
    import torch

    # Beyond 2 GB, the exporter writes a file for each weight beside the graph.
    with tempfile.TemporaryDirectory(dir=target) as folder:
        whole = Path(folder, GRAPH)
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter of torch.export needs a package more, for the same graph.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(traced.values()),
                str(whole),
                input_names=list(traced),
                output_names=[_FEATURES],
                dynamic_axes={
                    name: {place: axis for place, axis in enumerate(dims) if axis}
                    for name, dims in axes.items()
                },
                opset_version=_OPSET,
                custom_opsets={attention.DOMAIN: 1},
                dynamo=False,
            )
        ir.save(ir.load(whole), target / GRAPH, external_data=f"{GRAPH}.data")
    session = onnxruntime.InferenceSession(target / GRAPH, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(*compared.values())
    (actual,) = session.run(None, {name: tensor.numpy() for name, tensor in compared.items()})
    error = float((torch.from_numpy(actual) - expected).abs().max() / expected.abs().max())
    if not error <= LARGEST_ERROR:
        raise VisionError(f"the exported graph computes other features than torch: {error:.1%} off")


def picture_settings(source: Path) -> dict[str, Any]:
    """Read how a model takes its pictures: the settings of its image processor.

    Raises:
        VisionError: there are none.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = source / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        settings = content.get("image_processor", content)
        if "image_mean" in settings:
            return dict(settings)
    raise VisionError("no preprocessor_config.json says how it takes its pictures")
