"""Make prompts of pictures and questions, as a reference model takes them. A job because it loads a
model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs import seeing, session
from packager.jobs.job import Job, JobRefusedError, Work
from packager.jobs.seeing import SeeingModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IN_PROMPT = {"attention_mask": "image_attention_mask"}
"""Names in a prompt's tensors of inputs that have the same name in the text model."""


_GRID = "image_grid_thw"
"""Tensor [pictures, 3] of times, rows and columns of patches, of the Qwen-VL families."""


class MakePrompts(Job[None], frozen=True, kw_only=True):
    """Write `prompts.npz`: for picture number n, `ids.n`, `places.n`, `features.n`, `positions.n`.

    `ids` int64 `[tokens]` are the token ids, `places` bool `[tokens]` those of the picture,
    `features` float32 `[tokens of the picture, width]` what the vision graph makes of it, and
    `positions` int64 `[3, tokens]` those in time, rows and columns: equal for models that have one.

    Attributes:
        model: ONNX GenAI folder of a model with the vision graph in fp32, whatever its text model.
        pictures: folder of pictures.
        image_token: id of the token that stands for a part of a picture; None for all below zero.
    """

    model: Path
    pictures: Path
    image_token: int | None

    def run(self, work: Work) -> None:
        """Write the file.

        Raises:
            JobRefusedError: a prompt has another number of places than features.
        """
        model = SeeingModel(self.model)
        graph = session.load(self.model / model.vision["filename"])
        prompts: dict[str, Any] = {}
        for number, question in enumerate(seeing.questions(self.pictures)):
            tokens, tensors = model.prompt(self.pictures, question)
            ids = np.array(tokens, np.int64)
            places = ids < 0 if self.image_token is None else ids == self.image_token
            features = _features(graph, tensors)
            if places.sum() != len(features):
                raise JobRefusedError(
                    f"the prompt with the picture {question.picture} has {places.sum()} tokens "
                    f"for it, and the vision graph makes {len(features)} features"
                )
            positions = np.tile(np.arange(len(ids)), (3, 1))
            if _GRID in tensors:
                _, *sides = tensors[_GRID].as_numpy()[0]
                rows, columns = (side // model.vision["spatial_merge_size"] for side in sides)
                positions = three_positions(places, rows, columns)
            prompts |= {
                f"ids.{number}": ids,
                f"places.{number}": places,
                f"features.{number}": features,
                f"positions.{number}": positions,
            }
            work.advance(1)
        np.savez(work.target / "prompts.npz", **prompts)


def three_positions(places: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.int64]:
    """Compute the positions of tokens in time, rows and columns, as the Qwen-VL families have them.

    A picture takes one time, and as many positions of the text as its longer side has tokens.

    Args:
        places: which tokens are those of the picture, which follow each other `[tokens]`.
        rows: rows of its tokens.
        columns: columns of its tokens.

    Returns:
        The positions `[3, tokens]`.
    """
    start, count = int(places.argmax()), rows * columns
    positions = np.tile(np.arange(len(places)), (3, 1))
    token = np.arange(count)
    inside = np.stack((np.zeros_like(token), token // columns, token % columns))
    positions[:, start : start + count] = start + inside
    positions[:, start + count :] += max(rows, columns) - count
    return positions


def _features(graph: Any, tensors: dict[str, Any]) -> NDArray[np.float32]:
    """Compute the features of a picture, `[tokens, width]`, from its tensors."""
    names = [node.name for node in graph.get_inputs()]
    feed = {name: tensors[_IN_PROMPT.get(name, name)].as_numpy() for name in names}
    (features,) = graph.run(None, feed)
    rows: NDArray[np.float32] = features.reshape(-1, features.shape[-1])
    return rows.astype(np.float32)
