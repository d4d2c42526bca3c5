"""Find out whether a model's weights lie on a grid of 4 bits already. A job because of torch."""

from pathlib import Path

from packager.jobs.extract_text import text_name
from packager.jobs.job import Job, Work
from packager.weights import checkpoint, safetensors_file
from packager.weights.blocks import own_scale

MATRICES = 32
"""Weights to look at, spread over the model."""

ROWS = 64
"""Rows of each to look at, spread over it."""


class FindGrid(Job[float], frozen=True, kw_only=True):
    """Compute which share of a sample of the decoder layers' blocks lies on a grid.

    Attributes:
        folder: Hugging Face folder.
        block_size: inputs that share a scale.
        with_others: the folder has other models too, for images or sound.
    """

    folder: Path
    block_size: int
    with_others: bool

    def run(self, work: Work) -> float:
        """Look at the sample; the share is 0 for a model without matrices of whole blocks."""
        import torch
        from safetensors import safe_open

        on_grid = []
        for path, name in self._matrices():
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice(name)
                out, width = stored.get_shape()
                if width % self.block_size == 0:
                    rows = [stored[row : row + 1] for row in range(0, out, -(-out // ROWS))]
                    blocks = torch.cat(rows).float().reshape(len(rows), -1, self.block_size)
                    on_grid.append(own_scale(blocks).flatten() != 0)
        return float(torch.cat(on_grid).float().mean()) if on_grid else 0.0

    def _matrices(self) -> list[tuple[Path, str]]:
        """Choose the weights to look at, each with its file."""
        names = [
            (path, name)
            for path in checkpoint.files(self.folder)
            for name, tensor in sorted(safetensors_file.tensors(path).items())
            if ".layers." in name
            and len(tensor.shape) == 2
            and (not self.with_others or text_name(name))
        ]
        return names[:: -(-len(names) // MATRICES) or 1]
