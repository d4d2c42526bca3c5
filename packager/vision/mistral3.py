"""Vision part of Mistral 3 and Ministral 3: Pixtral, for pictures of any size, and a layer that
joins neighbouring patches to tokens."""

from pathlib import Path
from typing import Any

from packager.vision import tower, transforms
from packager.vision.exported import ExportedVision, VisionError

_LARGEST_RATIO = 200  # of a picture's sides, above which the engine refuses it


def export(source: Path, target: Path) -> ExportedVision:
    """Write the graph and the transforms.

    The graph takes one picture, `pixel_values` float32 [1, 3, height, width] with sides that are
    multiples of a token's, and gives `image_features` float32 [tokens, width of the text model].

    Args:
        source: Hugging Face folder.
        target: folder for the files.

    Raises:
        VisionError: weights, configuration or image processor are not those of Mistral 3.
    """
    import torch
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    config, sight, projector = tower.load(source, "pixtral", Mistral3MultiModalProjector)
    settings = tower.picture_settings(source)
    edge = settings.get("size", {}).get("longest_edge")
    layer = config.vision_feature_layer
    if not isinstance(edge, int) or not isinstance(layer, int):
        raise VisionError("it has no longest_edge of a picture, or joins layers of its tower")
    merged = config.spatial_merge_size
    patch = config.vision_config.patch_size
    side = patch * merged

    class Vision(torch.nn.Module):
        """Modules of transformers for one picture, without loops over pictures."""

        def __init__(self) -> None:
            super().__init__()
            self.sight = sight
            self.projector = projector

        def forward(self, pixel_values: Any) -> Any:
            patches = self.sight.patch_conv(pixel_values)
            rows, columns = patches.shape[2:]
            places = (
                torch.arange(rows)[:, None].expand(rows, columns),
                torch.arange(columns)[None].expand(rows, columns),
            )
            states = [self.sight.ln_pre(patches.flatten(2).transpose(1, 2))]
            rotary = self.sight.patch_positional_embedding(
                states[0], torch.stack(places, -1).flatten(0, 1)
            )
            for block in self.sight.transformer.layers:
                states.append(block(states[-1], None, position_embeddings=rotary))
            seen = self.projector.norm(states[layer])
            grid = seen.reshape(rows // merged, merged, columns // merged, merged, seen.shape[-1])
            squares = grid.permute(0, 2, 4, 1, 3).flatten(2).flatten(0, 1)
            features = self.projector.linear_1(self.projector.patch_merger.merging_layer(squares))
            return self.projector.linear_2(self.projector.act(features))

    resize = {
        "smart_resize": 1,
        "patch_size": patch,
        "merge_size": merged,
        "min_pixels": side**2,
        "max_pixels": edge**2,
    }
    transforms.write(settings, target, resize, sizes=True)
    noise = torch.randn(1, 3, 4 * side, 2 * side, generator=torch.Generator().manual_seed(0))
    tower.write_graph(
        Vision(),
        target,
        traced={tower.PIXELS: torch.zeros(1, 3, 2 * side, 3 * side)},
        compared={tower.PIXELS: noise},
        axes={tower.PIXELS: ("", "", "height", "width")},
    )
    return ExportedVision(
        type="mistral3",
        inputs=(tower.PIXELS,),
        image_tokens=_most_tokens((edge // side) ** 2),
        image_token=config.image_token_id,
        sizes={"patch_size": patch, "spatial_merge_size": merged},
    )


def _most_tokens(area: int) -> int:
    """Compute the most tokens of a picture of at most some squares: each row ends with one more."""
    return max(
        min(area // columns, _LARGEST_RATIO * columns) * (columns + 1)
        for columns in range(1, area + 1)
    )
