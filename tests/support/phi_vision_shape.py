"""A randomly filled model of exactly Phi-3.5-vision's shape; `phi_shape` says how to make it."""

import sys
from pathlib import Path
from typing import Any

from tests.support import phi_shape, tiny_phi3v

_OTHER = ("architectures", "dtype", "model_type", "pad_token_id")
CONFIG: dict[str, Any] = {
    **tiny_phi3v.CONFIG,
    **{name: value for name, value in phi_shape.CONFIG.items() if name not in _OTHER},
    "img_processor": {**tiny_phi3v.CONFIG["img_processor"], "image_dim_out": 1024},
}


def make(folder: Path, layers: int = 32) -> Path:
    """Write the Hugging Face folder; returns it."""
    import torch

    config = tiny_phi3v.write_files(folder, {**CONFIG, "num_hidden_layers": layers})
    with torch.device("meta"):
        shapes = tiny_phi3v.Reference(config, layers=24).tensors()
    phi_shape.write_weights(folder, shapes)
    return folder


if __name__ == "__main__":
    make(Path(sys.argv[1]), *(int(layers) for layers in sys.argv[2:]))
