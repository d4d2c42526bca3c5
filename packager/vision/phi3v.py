"""Vision part of Phi-3-vision and Phi-3.5-vision, from their tensors, without their own code.

A picture is cut into crops of 336 x 336 pixels; a small copy of the whole is the first crop. A CLIP
vision transformer turns each into 24 x 24 states, of which 2 x 2 neighbours are joined. The tokens
of a picture are those of its crops, as rows of the whole picture with a separator after each, then
another separator, then those of the small copy, with a separator after each row. Two linear layers
bring them to the width of the text model.

`pixel_values` float32 [pictures, crops, 3, 336, 336] and `image_sizes` int64 [pictures, 2] (height
and width of a picture in pixels, multiples of 336) in, `image_features` float32 [tokens of all
pictures, width] out. Crops beyond those of a picture's size are padding, and are not computed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.vision import attention, tower, transforms
from packager.vision.exported import ExportedVision, VisionError
from packager.weights import checkpoint

if TYPE_CHECKING:
    import torch

CROP = 336
"""Edge of a crop, pixels."""

CROPS = 16
"""Most crops of a picture, the small copy of the whole not counted. The engine's image transform
has this number built in: it ignores `num_crops`, and enlarges small pictures."""

TOKENS = 12
"""Tokens on the edge of a crop."""

SIZES = "image_sizes"

_PREFIX = "model.vision_embed_tokens."
_PATCH = 14
_HEAD = 64  # width of an attention head in every CLIP model
_CONFIG = {
    "embd_layer": {
        "hd_transform_order": "sub_glb",
        "projection_cls": "mlp",
        "use_hd_transform": True,
        "with_learnable_separator": True,
    },
    "img_processor": {
        "layer_idx": -2,
        "name": "clip_vision_model",
        "num_img_tokens": TOKENS**2,
        "type_feature": "patch",
    },
}
"""Values of config.json that this module and the engine's image transform are written for."""

_TRANSFORMS: dict[str, dict[str, Any]] = {
    "DecodeImage": {"color_space": "RGB"},
    "Phi3ImageTransform": {},
}


def export(source: Path, target: Path) -> ExportedVision:
    """Write the vision graph and the image transforms.

    Args:
        source: Hugging Face folder.
        target: folder for the files.

    Raises:
        VisionError: configuration or tensors are not those of Phi-3-vision, or the graph computes
            other features than torch.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    _check(config)
    module = _module(source, config["img_processor"]["image_dim_out"], config["hidden_size"])
    tower.write_graph(
        module,
        target,
        traced=_pictures((1, 1)),
        compared=_pictures((1, 2), (2, 1)),
        axes={tower.PIXELS: ("pictures", "crops"), SIZES: ("pictures",)},
    )
    transforms.write_steps(_TRANSFORMS, target)
    return ExportedVision(
        type="phi3v",
        inputs=(tower.PIXELS, SIZES),
        # A column of crops has the most rows, and so the most separators.
        image_tokens=tokens(CROPS, 1),
        image_token=None,
    )


def tokens(rows: int, columns: int) -> int:
    """Return the number of tokens of a picture of rows and columns of crops."""
    return TOKENS * rows * (TOKENS * columns + 1) + 1 + TOKENS * (TOKENS + 1)


def _check(config: dict[str, Any]) -> None:
    """Refuse a configuration with other values than those of Phi-3-vision."""
    for section, values in _CONFIG.items():
        settings = config.get(section)
        if not isinstance(settings, dict):
            raise VisionError(f"config.json has no {section}")
        for name, value in values.items():
            if settings.get(name, value) != value:
                raise VisionError(
                    f"config.json: {section}.{name} is not {json.dumps(value)}, the only value "
                    "that is supported"
                )


def _module(source: Path, width: int, hidden: int) -> torch.nn.Module:
    """Make the torch module of the graph, with the tensors of a Hugging Face folder in fp32.

    Args:
        source: Hugging Face folder.
        width: width of the vision transformer.
        hidden: width of the text model.

    Raises:
        VisionError: tensors are missing or have other shapes.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    attention.register()
    tensors = _tensors(source)
    layers = sum(name.endswith(".layer_norm1.weight") for name in tensors)
    vit = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        # The states before the last layer are used.
        num_hidden_layers=max(layers - 1, 1),
        num_attention_heads=width // _HEAD,
        image_size=CROP,
        patch_size=_PATCH,
        hidden_act="quick_gelu",
        attn_implementation=attention.NAME,
    )

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.img_processor = CLIPVisionModel(vit)
            self.img_projection = torch.nn.Sequential(
                torch.nn.Linear(4 * width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
            )
            self.sub_GN = torch.nn.Parameter(torch.empty(1, 1, 1, 4 * width))
            self.glb_GN = torch.nn.Parameter(torch.empty(1, 1, 4 * width))

        def forward(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
            grids = image_sizes // CROP
            used = grids.prod(1) + 1
            is_used = torch.arange(pixel_values.shape[1])[None] < used[:, None]
            crops = pixel_values.flatten(0, 1)[is_used.flatten().nonzero()[:, 0]]
            states = self.img_processor(crops).last_hidden_state[:, 1:]
            squares = states.reshape(-1, TOKENS, 2, TOKENS, 2, width).transpose(2, 3)
            rows = [self.sub_GN, self.glb_GN, squares]
            table = torch.cat([row.reshape(-1, 4 * width) for row in rows])
            features: torch.Tensor = self.img_projection(table)[_order(grids, used)]
            return features

    module = Vision().eval()
    expected = module.state_dict()
    wrong = [n for n, t in expected.items() if n not in tensors or tensors[n].shape != t.shape]
    if wrong:
        raise VisionError(
            f"{len(wrong)} tensors of the vision part are missing or have other shapes than those "
            f"of Phi-3-vision, such as {wrong[0]}"
        )
    module.load_state_dict({name: tensors[name] for name in expected}, assign=True)
    return module


def _tensors(source: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of the vision part, in fp32, by their names in the module."""
    from safetensors import safe_open

    tensors = {}
    for path in checkpoint.files(source):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name.startswith(_PREFIX):
                    own = name.removeprefix(_PREFIX).replace(".vision_model.", ".")
                    tensors[own] = file.get_tensor(name).float()
    return tensors


def _order(grids: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Compute where the tokens of all pictures are in the module's table.

    Args:
        grids: rows and columns of crops [pictures, 2].
        used: crops of each picture, the small copy of the whole among them [pictures].

    Returns:
        Rows of the table [tokens]: 0 and 1 are the separators, then there are 144 for each crop.
    """
    import torch

    detailed = TOKENS * grids[:, 0] * (TOKENS * grids[:, 1] + 1)
    count = detailed + 1 + TOKENS * (TOKENS + 1)
    ends: Any = count.cumsum(0)
    token = torch.arange(ends[-1])
    picture = (token[:, None] >= ends).sum(1)
    place = token - (ends - count)[picture]
    whole = place > detailed[picture]
    # Of the token's part of the picture: its columns of crops, its first crop, the token's place.
    columns = torch.where(whole, 1, grids[picture, 1])
    first = (used.cumsum(0) - used)[picture] + torch.where(whole, 0, 1)
    in_part = torch.where(whole, place - detailed[picture] - 1, place)
    row, column = in_part // (TOKENS * columns + 1), in_part % (TOKENS * columns + 1)
    crop = first + row // TOKENS * columns + column // TOKENS
    index = 2 + TOKENS * (TOKENS * crop + row % TOKENS) + column % TOKENS
    index = torch.where(column == TOKENS * columns, 0, index)
    return torch.where(place == detailed[picture], 1, index)


def _pictures(*grids: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Make the inputs of the graph for noise with these rows and columns of crops."""
    import torch

    crops = 2 + max(rows * columns for rows, columns in grids)  # the last are never used
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randn((len(grids), crops, 3, CROP, CROP), generator=noise)
    return {tower.PIXELS: pixels, SIZES: CROP * torch.tensor(grids)}
