"""A tiny random model that sees: an ONNX GenAI folder of the type `phi3v`, with the real names of
its inputs and outputs, and with the engine's own image transform.

Its text model is the tiny Llama model. An image takes as many tokens as in Phi-3.5-vision, at least
1,900; each token has the colour of one of 144 places of the image, so answers depend on images.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.bundle.vision import Vision
from packager.vision.attach import attach
from packager.vision.exported import GRAPH, PROCESSOR, ExportedVision
from tests.support import tiny_model

VISION = Vision(family="phi3v", image_tokens=2653)
"""As in a manifest; most tokens has an image 16 times as high as wide."""
SQUARE_TOKENS = 2509
"""Tokens of a square image."""
POSITIONS = 16384
"""Longest context, tokens."""

WIDTH = 64
TRANSFORMS: dict[str, dict[str, Any]] = {
    "DecodeImage": {"color_space": "BGR"},
    "ConvertRGB": {},
    "Phi3ImageTransform": {"num_crops": 16, "num_img_tokens": 144},
}


def make(folder: Path, work: Path, precision: str = "fp32") -> Path:
    """Write the folder; returns it.

    Args:
        folder: the folder.
        work: a folder for what it is made of.
        precision: type of the text model's weights.
    """
    hf_folder = tiny_model.make_hf(work / "hf", positions=POSITIONS)
    _heed_earlier_tokens(hf_folder)
    text = tiny_model.make_onnx(hf_folder, work / "text", work / "cache", precision)
    exported = ExportedVision(
        type=VISION.family,
        inputs=("pixel_values", "image_sizes"),
        image_tokens=VISION.image_tokens,
        image_token=None,
    )
    attach(text, _vision_folder(work / "vision"), exported, folder)
    return folder


def _heed_earlier_tokens(hf_folder: Path) -> None:
    """Raise the weight of attention, or an answer would repeat the prompt's last token."""
    from safetensors.numpy import load_file, save_file

    file = hf_folder / "model.safetensors"
    tensors = load_file(file)
    for name, weight in tensors.items():
        if name.endswith("o_proj.weight"):
            weight *= 20
    save_file(tensors, file, metadata={"format": "pt"})


def _vision_folder(folder: Path) -> Path:
    """Write the vision graph and the transforms of images."""
    import onnx
    from onnx import TensorProto, checker, helper, numpy_helper, parser

    # Images may have different numbers of tokens: (crops + 1) x 144 + (rows of crops + 1) x 12 + 1.
    program = """
        first = Gather<axis=1>(pixel_values, zero)
        places = AveragePool<kernel_shape=[28, 28], strides=[28, 28]>(first)
        flat = Reshape(places, to_rows)
        rows = Transpose<perm=[0, 2, 1]>(flat)
        coloured = MatMul(rows, colours)
        crops = Div(image_sizes, side)
        area = ReduceProd<axes=[1], keepdims=0>(crops)
        high = Gather<axis=1>(crops, zero)
        more = Mul(high, twelve)
        tiles = Mul(area, tile)
        counted = Add(tiles, more)
        counts = Add(counted, rest)
        ends = CumSum(counts, zero)
        total = ReduceSum<keepdims=0>(counts)
        numbers = Range(zero, total, one)
        column = Unsqueeze(numbers, last)
        past = LessOrEqual(ends, column)
        past_as_number = Cast<to=7>(past)
        image = ReduceSum<keepdims=0>(past_as_number, last)
        place = Mod(numbers, tile)
        images = Unsqueeze(image, last)
        place_column = Unsqueeze(place, last)
        indices = Concat<axis=1>(images, place_column)
        image_features = GatherND(coloured, indices)
    """
    colours = np.random.default_rng(0).normal(0, 0.02, (3, WIDTH)).astype(np.float32)
    numbers = {"zero": 0, "one": 1, "side": 336, "tile": 144, "twelve": 12, "rest": 144 + 12 + 1}
    constants = {name: np.array(number) for name, number in numbers.items()}
    constants |= {"last": np.array([-1]), "to_rows": np.array([0, 3, 144]), "colours": colours}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        parser.parse_graph(f"vision () => () {{{program}}}").node,
        "vision",
        [
            value("pixel_values", TensorProto.FLOAT, ["images", "crops", 3, 336, 336]),
            value("image_sizes", TensorProto.INT64, ["images", 2]),
        ],
        [value("image_features", TensorProto.FLOAT, ["tokens", WIDTH])],
        [numpy_helper.from_array(constant, name) for name, constant in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model, full_check=True)
    folder.mkdir()
    onnx.save(model, str(folder / GRAPH))
    transforms = [
        {
            "operation": {
                "name": name.lower(),
                "domain": "com.microsoft.extensions",
                "type": name,
                "attrs": attributes,
            }
        }
        for name, attributes in TRANSFORMS.items()
    ]
    processor = {"name": "image_processing", "transforms": transforms}
    (folder / PROCESSOR).write_text(json.dumps({"processor": processor}))
    return folder
