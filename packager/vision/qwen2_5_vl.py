"""Vision part of Qwen2.5-VL: patches that see those of the same window, in some layers all others.

Windows are squares of a picture, smaller at its right and lower edge. Here each is filled up to the
same number of patches, and a mask says which are there: attention works on all of them at once, and
patches stay in the order in which they came.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from packager.vision import attention, tower, transforms
from packager.vision.exported import ExportedVision, VisionError

if TYPE_CHECKING:
    import torch

GRID = "image_grid_thw"

MOST_TOKENS = 1280
"""Most tokens of a picture. The publisher's settings allow 16,384, which few devices have memory
for; this is what transformers takes where there are no settings."""

_LARGEST_RATIO = 200  # of a picture's sides, above which the engine refuses it
_CUBIC = 3  # number of Pillow
_PLACES = re.compile(r"(?:model\.)?(visual)\.")


def export(source: Path, target: Path) -> ExportedVision:
    """Write the graph and the transforms.

    The graph takes one picture, `pixel_values` float32 [patches, numbers of a patch] and
    `image_grid_thw` int64 [1, 3] (1, and its rows and columns of patches), and gives
    `image_features` float32 [tokens, width of the text model]. Patches that become a token follow
    each other.

    Args:
        source: Hugging Face folder.
        target: folder for the files.

    Raises:
        VisionError: weights, configuration or image processor are not those of Qwen2.5-VL.
    """
    import torch
    from transformers import AutoConfig
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

    config = AutoConfig.from_pretrained(source)
    sizes = config.vision_config
    sight = qwen.Qwen2_5_VisionTransformerPretrainedModel(sizes)
    tower.fill({"visual": sight}, source, _PLACES)
    attention.register()
    attend: Any = ALL_ATTENTION_FUNCTIONS[attention.NAME]
    merged, patch = sizes.spatial_merge_size, sizes.patch_size
    side = sizes.window_size // patch

    def look(block: Any, states: Any, rotary: Any, windows: _Windows | None) -> Any:
        """Run a layer on the states of patches [patches, width]."""
        layer = block.attn
        heads = layer.qkv(block.norm1(states)).unflatten(1, (3, layer.num_heads, -1))
        query, key, value = heads.unbind(1)
        query, key = qwen.apply_rotary_pos_emb_vision(query, key, *rotary)
        parts = [
            part[None] if windows is None else part[windows.patches] for part in (query, key, value)
        ]
        mask = None if windows is None else windows.mask
        parts = [part.transpose(1, 2) for part in parts]
        attended, _ = attend(layer, *parts, mask, scaling=layer.scaling)
        attended = attended.flatten(2).flatten(0, 1)
        states = states + layer.proj(attended if windows is None else attended[windows.places])
        return states + block.mlp(block.norm2(states))

    class Vision(torch.nn.Module):
        """Modules of transformers, without their loops over windows."""

        def __init__(self) -> None:
            super().__init__()
            self.sight = sight

        def forward(self, pixels: Any, grid: Any) -> Any:
            places = _places(grid[0, 1], grid[0, 2], merged)
            # A convolution whose kernel is as large as a patch.
            kernel = self.sight.patch_embed.proj.weight.flatten(1)
            states = torch.nn.functional.linear(pixels, kernel)
            rotary = self.sight.rotary_pos_emb(states, places)
            windows = _windows(grid[0, 1], grid[0, 2], places, side, merged)
            for number, block in enumerate(self.sight.blocks):
                whole = number in sizes.fullatt_block_indexes
                states = look(block, states, rotary, None if whole else windows)
            return self.sight.merger(states)

    most = _write_transforms(source, target, config)
    numbers = sizes.in_channels * sizes.temporal_patch_size * patch**2
    tower.write_graph(
        Vision().eval(),
        target,
        traced=_picture(numbers, side + merged, 2 * side - merged),
        compared=_picture(numbers, 2 * side, merged),
        axes={tower.PIXELS: ("patches",), GRID: ()},
    )
    return ExportedVision(
        type="qwen2_5_vl",
        inputs=(tower.PIXELS, GRID),
        # A beginning and an end stand around them.
        image_tokens=max(most, math.isqrt(most * _LARGEST_RATIO)) + 2,
        image_token=config.image_token_id,
        sections=tuple(config.text_config.rope_parameters["mrope_section"]),
        tokens={
            name: getattr(config, name)
            for name in ("image_token_id", "video_token_id", "vision_start_token_id")
        },
        sizes={
            "patch_size": patch,
            "spatial_merge_size": merged,
            "window_size": sizes.window_size,
        },
    )


def _write_transforms(source: Path, target: Path, config: Any) -> int:
    """Write the engine's image transforms; returns the most tokens of pictures but narrow ones.

    Raises:
        VisionError: the image processor is not that of Qwen2.5-VL.
    """
    # The publisher's settings leave the method out, which is then bicubic.
    settings = {"resample": _CUBIC, **tower.picture_settings(source)}
    size = settings.get("size") or {}
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    if not isinstance(least, int) or not isinstance(most, int):
        raise VisionError("its image processor has no whole numbers of pixels of a picture")
    sizes = config.vision_config
    merged = {"patch_size": sizes.patch_size, "merge_size": sizes.spatial_merge_size}
    area: int = (sizes.patch_size * sizes.spatial_merge_size) ** 2
    most = min(most, MOST_TOKENS * area)
    resize = {"smart_resize": 1, **merged, "min_pixels": min(least, most), "max_pixels": most}
    patches = {**merged, "temporal_patch_size": sizes.temporal_patch_size}
    transforms.write(settings, target, resize, patches=patches)
    return most // area


class _Windows(NamedTuple):
    """Windows of a picture, each filled up to the same number of places.

    Attributes:
        patches: the patch of each place [windows, places]; any where there is none.
        mask: int32 [windows, places], 0 where there is none.
        places: of each patch, its place among those of all windows [patches].
    """

    patches: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor


def _places(rows: Any, columns: Any, merged: int) -> torch.Tensor:
    """Compute the row and the column of each patch [patches, 2].

    Args:
        rows: rows of patches.
        columns: columns of patches.
        merged: side of the square of patches that becomes a token; they follow each other.
    """
    import torch

    patch = torch.arange(rows * columns)
    token, inner = patch // merged**2, patch % merged**2
    tokens = columns // merged  # in a row
    row = merged * (token // tokens) + inner // merged
    column = merged * (token % tokens) + inner % merged
    return torch.stack((row, column), 1)


def _windows(rows: Any, columns: Any, places: torch.Tensor, side: int, merged: int) -> _Windows:
    """Compute the windows of a picture.

    Args:
        rows: rows of patches.
        columns: columns of patches.
        places: row and column of each patch, as `_places`.
        side: rows and columns of a window, patches.
        merged: as for `_places`.
    """
    import torch

    across = (columns + side - 1) // side
    row, column = places[:, 0], places[:, 1]
    window = row // side * across + column // side
    own = window * side**2 + row % side * side + column % side

    count = (rows + side - 1) // side * across
    number = torch.arange(count)[:, None]
    place = torch.arange(side**2)[None]
    row = number // across * side + place // side
    column = number % across * side + place % side
    there = (row < rows) & (column < columns)
    token = row // merged * (columns // merged) + column // merged
    patch = token * merged**2 + row % merged * merged + column % merged
    return _Windows(torch.where(there, patch, 0), there.to(torch.int32), own)


def _picture(numbers: int, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Make the inputs of the graph for noise.

    Args:
        numbers: numbers of a patch.
        rows: rows of patches.
        columns: columns of patches.
    """
    import torch

    noise = torch.Generator().manual_seed(0)
    pixels = torch.randn((rows * columns, numbers), generator=noise)
    return {tower.PIXELS: pixels, GRID: torch.tensor([[1, rows, columns]])}
