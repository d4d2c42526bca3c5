"""Vision part of Gemma 3: SigLIP, whose patches are averaged to 256 tokens a picture."""

from pathlib import Path
from typing import Any

from packager.vision import tower, transforms
from packager.vision.exported import ExportedVision, VisionError

_TOKENS = 256  # of a picture, as the engine writes them into the prompt


def export(source: Path, target: Path) -> ExportedVision:
    """Write the graph and the transforms.

    The graph takes `pixel_values` float32 [pictures, 3, side, side] and gives `image_features`
    float32 [pictures, 256, width of the text model].

    Args:
        source: Hugging Face folder.
        target: folder for the files.

    Raises:
        VisionError: the model makes another number of tokens of a picture, or its weights or
            image processor are not those of Gemma 3.
    """
    import torch
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    config, sight, projector = tower.load(source, "siglip_vision_model", Gemma3MultiModalProjector)
    if config.mm_tokens_per_image != _TOKENS:
        raise VisionError(
            f"it makes {config.mm_tokens_per_image} tokens of a picture; ONNX Runtime GenAI knows "
            f"Gemma 3 with {_TOKENS} alone"
        )

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sight = sight
            self.projector = projector

        def forward(self, pixel_values: Any) -> Any:
            return self.projector(self.sight(pixel_values).last_hidden_state)

    side = config.vision_config.image_size
    transforms.write(tower.picture_settings(source), target, {"height": side, "width": side})
    shape = (1, 3, side, side)
    tower.write_graph(
        Vision(),
        target,
        traced={tower.PIXELS: torch.zeros(shape)},
        compared={tower.PIXELS: torch.randn(shape, generator=torch.Generator().manual_seed(0))},
        axes={tower.PIXELS: ("pictures",)},
    )
    return ExportedVision(
        type="gemma3",
        inputs=(tower.PIXELS,),
        image_tokens=_TOKENS,
        image_token=config.image_token_id,
        both_ways=True,
    )
