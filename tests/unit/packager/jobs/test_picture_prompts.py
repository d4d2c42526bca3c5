"""Positions of a picture's tokens, against transformers."""

import numpy as np
import pytest

from packager.jobs.picture_prompts import three_positions


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 2)])
def test_positions_are_those_of_transformers(rows: int, columns: int) -> None:
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    places = np.array([False] * 3 + [True] * (rows * columns) + [False] * 4)
    with torch.device("meta"):
        model = Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config={"num_hidden_layers": 0}))
    expected, _ = model.get_rope_index(
        torch.zeros((1, len(places)), dtype=torch.long),
        torch.from_numpy(places)[None].int(),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]]),
    )
    assert np.array_equal(three_positions(places, rows, columns), expected[:, 0].numpy())
