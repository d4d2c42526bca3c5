"""Image transforms of the engine (ONNX Runtime Extensions), as its processor_config.json has them.

`ConvertRGB` is not among them: it swaps red and blue, and `DecodeImage` gives RGB already.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.vision.exported import PROCESSOR, VisionError

_METHODS = {0: "NEAREST", 1: "LANCZOS", 2: "LINEAR", 3: "CUBIC"}
"""Names of the engine, by Pillow's numbers."""

_NEEDED = ("do_resize", "do_rescale", "do_normalize")


def write(
    settings: dict[str, Any],
    target: Path,
    resize: dict[str, int],
    *,
    sizes: bool = False,
    patches: dict[str, int] | None = None,
) -> None:
    """Write the transforms: decode, resize, scale, normalize, put the channels first.

    Args:
        settings: those of the image processor of transformers.
        target: the folder.
        resize: attributes of `Resize` without the method.
        sizes: also tell the sizes of the resized pictures.
        patches: attributes of `PatchImage`, for a model of the Qwen-VL family: pictures are cut
            into patches.

    Raises:
        VisionError: the image processor does something else.
    """
    method = _METHODS.get(settings.get("resample", -1))
    left_out = [name for name in _NEEDED if settings.get(name) is False]
    if method is None or left_out:
        raise VisionError(
            "its image processor does not resize (nearest, linear, cubic or Lanczos), rescale and "
            "normalize"
        )
    steps: dict[str, dict[str, Any]] = {
        "DecodeImage": {"color_space": "RGB"},
        "Resize": {**resize, "interpolation": method},
        "Rescale": {"rescale_factor": float(settings.get("rescale_factor", 1 / 255))},
        "Normalize": {
            "mean": [float(number) for number in settings["image_mean"]],
            "std": [float(number) for number in settings["image_std"]],
        },
        **({"PatchImage": patches} if patches else {"Permute3D": {"dims": [2, 0, 1]}}),
        **({"PixtralImageSizes": {}} if sizes else {}),
    }
    write_steps(steps, target)


def write_steps(steps: Mapping[str, Mapping[str, Any]], target: Path) -> None:
    """Write transforms.

    Args:
        steps: attributes of each, by its type.
        target: the folder.
    """
    transforms = [
        {"operation": {"name": name.lower(), "type": name, "attrs": attrs}}
        for name, attrs in steps.items()
    ]
    content = {"processor": {"name": "image_processing", "transforms": transforms}}
    (target / PROCESSOR).write_text(json.dumps(content, indent=2), encoding="utf-8")
