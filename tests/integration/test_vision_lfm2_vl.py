"""LFM2-VL that sees, from its Hugging Face folder to answers: fp32 against transformers."""

from typing import Any

import numpy as np
import pytest

from tests.support import seeing, tiny_seeing
from tests.support.seeing import Models

pytestmark = pytest.mark.slow

SIDE = 16  # of a patch, pixels
SIZES = [(128, 128), (64, 96)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(
        tmp_path_factory.mktemp("lfm2_vl"),
        tiny_seeing.make_lfm2_vl,
        "Lfm2VlForConditionalGeneration",
        "<image>",
    )


def test_prompt_has_the_tokens_that_transformers_writes(models: Models) -> None:
    inputs = models.processed([seeing.picture(0, *size) for size in SIZES])
    first, second = (f"<|image_start|>{n * '<image>'}<|image_end|>" for n in (16, 6))
    expected = models.tokenizer(f"What is {first} and {second} and the capital?")["input_ids"]
    # The engine's own tokenizer does not put the first token before a text.
    assert inputs["input_ids"].as_numpy()[0].tolist() == expected[1:]
    assert inputs["num_image_tokens"].as_numpy().tolist() == [22]


def test_pixels_are_patches_of_the_picture(models: Models) -> None:
    """Of a picture that needs no resizing; the image processor of transformers needs a package
    more."""
    width, height = SIZES[1]
    picture = seeing.picture(1, width, height)
    pixels = models.processed([picture])["pixel_values"].as_numpy()
    grid = (np.asarray(picture, np.float32) / 255 - 0.5) / 0.5
    grid = grid.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3).swapaxes(1, 2)
    assert np.abs(pixels - grid.reshape(1, -1, 3 * SIDE**2)).max() < 1e-6


@pytest.mark.parametrize(
    ("size", "tokens"), [((200, 90), (2, 5)), ((2000, 900), (2, 5)), ((10, 10), (2, 2))]
)
def test_picture_has_the_size_that_transformers_gives_it(
    models: Models, size: tuple[int, int], tokens: tuple[int, int]
) -> None:
    inputs = models.processed([seeing.picture(1, *size)])
    assert inputs["image_sizes"].as_numpy().tolist() == [[2 * number for number in tokens]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_answers_are_those_of_transformers(models: Models, count: int) -> None:
    import torch

    names = {
        "pixel_values": "pixel_values",
        "spatial_shapes": "image_sizes",
        "pixel_attention_mask": "image_attention_mask",
    }

    def prepare(seed: int) -> tuple[Any, dict[str, Any]]:
        inputs = models.processed([seeing.picture(seed, *size) for size in SIZES[:count]])
        own = names if count else {}
        return inputs, {to: torch.from_numpy(inputs[at].as_numpy()) for to, at in own.items()}

    ids, given, logits = models.compare(prepare)
    if count:
        given["pixel_values"] = torch.zeros_like(given["pixel_values"])
        _, blind = seeing.expected(models.hf, ids, **given)
        assert np.abs(blind[0] - logits[0]).max() > 0.1
