"""Vision part of LFM2-VL: SigLIP 2 with positions for pictures of any shape.

The engine cuts pictures into patches and pads them to the most of one. It never splits a large
picture into tiles, as the publisher's own code may: it is made smaller instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.vision import tower, transforms
from packager.vision.exported import ExportedVision, VisionError

if TYPE_CHECKING:
    import torch

MASK, SIZES = "attention_mask", "image_sizes"

_TOKENS = {"min_image_tokens": 64, "max_image_tokens": 256}
"""Bounds of a picture's tokens, where its image processor has none."""


def export(source: Path, target: Path) -> ExportedVision:
    """Write the graph and the transforms.

    The graph takes `pixel_values` float32 [pictures, patches, numbers of a patch], `attention_mask`
    int64 [pictures, patches] (0 for padding) and `image_sizes` int64 [pictures, 2] (rows and
    columns of patches), and gives `image_features` float32 [tokens of all pictures, width of the
    text model].

    Args:
        source: Hugging Face folder.
        target: folder for the files.

    Raises:
        VisionError: weights, configuration or image processor are not those of LFM2-VL.
    """
    import torch
    from transformers.models.lfm2_vl.modeling_lfm2_vl import Lfm2VlMultiModalProjector

    config, sight, projector = tower.load(source, "siglip2_vision_model", Lfm2VlMultiModalProjector)
    settings = tower.picture_settings(source)
    patch, merged = config.vision_config.patch_size, config.downsample_factor
    least, most = (settings.get(name, number) for name, number in _TOKENS.items())
    if not isinstance(least, int) or not isinstance(most, int):
        raise VisionError("its image processor has no whole numbers of tokens of a picture")

    class Vision(torch.nn.Module):
        """The work of the modules of transformers, without loops over pictures."""

        def __init__(self) -> None:
            super().__init__()
            self.sight = sight
            self.projector = projector

        def forward(self, pixels: Any, mask: Any, sizes: Any) -> Any:
            embeddings = self.sight.embeddings
            states = embeddings.patch_embedding(pixels)
            table = embeddings.position_embedding.weight
            states = states + _shares(sizes, mask.shape[1], embeddings) @ table
            states = self.sight.encoder(states, mask.to(torch.int32)).last_hidden_state
            states = self.sight.post_layernorm(states)
            picture, places = _squares(sizes, merged)
            squares = states[picture[:, None], places].flatten(1)
            if self.projector.use_layer_norm:
                squares = self.projector.layer_norm(squares)
            hidden = self.projector.act(self.projector.linear_1(squares))
            return self.projector.linear_2(hidden)

    area = (patch * merged) ** 2
    resize = {
        "smart_resize": 1,
        "patch_size": patch,
        "merge_size": merged,
        "min_pixels": least * area,
        "max_pixels": most * area,
    }
    transforms.write(settings, target, resize, sizes=True)
    numbers = 3 * patch**2
    tower.write_graph(
        Vision(),
        target,
        traced=_pictures(numbers, (2 * merged, merged), (merged, merged)),
        compared=_pictures(numbers, (merged, 3 * merged), (4 * merged, merged), (merged, merged)),
        axes=dict.fromkeys((tower.PIXELS, MASK), ("pictures", "patches")) | {SIZES: ("pictures",)},
    )
    return ExportedVision(
        type="lfm2_vl",
        inputs=(tower.PIXELS, MASK, SIZES),
        # A beginning and an end stand around them.
        image_tokens=most + 2,
        image_token=config.image_token_id,
        sizes={"patch_size": patch, "spatial_merge_size": merged},
    )


def _shares(sizes: torch.Tensor, patches: Any, embeddings: Any) -> torch.Tensor:
    """Compute the share of each known position in that of a patch.

    It is linear interpolation in two directions, and an average where there are fewer patches than
    positions, as torch has it with `antialias`.

    Args:
        sizes: rows and columns of patches [pictures, 2].
        patches: number of patches of the padded pictures.
        embeddings: the tower's, with `position_embedding_size` positions in each direction.

    Returns:
        Shares [pictures, patches, positions].
    """
    import torch

    known = embeddings.position_embedding_size
    number = torch.arange(patches)[None]
    columns = sizes[:, 1:]
    axes = []
    for place, count in ((number // columns, sizes[:, :1]), (number % columns, columns)):
        step = known / count.float()
        reach = step.clamp(min=1.0)
        centre = (place + 0.5) * step
        distance = (torch.arange(known) + 0.5 - centre[..., None]).abs() / reach[..., None]
        share = (1.0 - distance).clamp(min=0.0)
        # Padding is beyond all positions.
        axes.append(share / share.sum(-1, keepdim=True).clamp(min=1e-6))
    both: torch.Tensor = axes[0][..., None] * axes[1][..., None, :]
    return both.flatten(2)


def _squares(sizes: torch.Tensor, merged: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute which patches become a token.

    Args:
        sizes: rows and columns of patches [pictures, 2].
        merged: side of the square of patches that becomes a token.

    Returns:
        For the tokens of all pictures: the picture [tokens], and the patches [tokens, merged ** 2].
    """
    import torch

    counts = (sizes // merged).prod(1)
    ends: Any = counts.cumsum(0)
    token = torch.arange(ends[-1])
    picture = (token[:, None] >= ends).sum(1)
    place = token - (ends - counts)[picture]
    columns = sizes[picture, 1]
    row, column = place // (columns // merged), place % (columns // merged)
    first = merged * (row * columns + column)
    inner = torch.arange(merged)
    square = inner[:, None] * columns[:, None, None] + inner
    return picture, (first[:, None, None] + square).flatten(1)


def _pictures(numbers: int, *sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Make the inputs of the graph for noise with these rows and columns of patches.

    Args:
        numbers: numbers of a patch.
        sizes: rows and columns of each picture.
    """
    import torch

    counts = torch.tensor(sizes).prod(1)
    patches = int(counts.max())
    pixels = torch.randn((len(sizes), patches, numbers), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(patches) < counts[:, None]).long()
    return {tower.PIXELS: pixels, MASK: mask, SIZES: torch.tensor(sizes)}
