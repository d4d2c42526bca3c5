"""Gemma 3 that sees, from its Hugging Face folder to answers: fp32 against transformers."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import seeing, tiny_seeing
from tests.support.seeing import Models

pytestmark = pytest.mark.slow

MARK = "<start_of_image>"
WRITTEN = f"\n\n{MARK}{256 * '<image_soft_token>'}<end_of_image>\n\n"
SIZES = [(150, 100), (40, 70)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    return Models(
        tmp_path_factory.mktemp("gemma3"),
        tiny_seeing.make_gemma3,
        "Gemma3ForConditionalGeneration",
        MARK,
        Gemma3ImageProcessorPil,
    )


def given(models: Models, pictures: list[Image.Image]) -> Any:
    """Return the pictures as transformers' model takes them."""
    return models.pictures(pictures, return_tensors="pt")["pixel_values"]


def test_prompt_has_the_tokens_that_transformers_writes(models: Models) -> None:
    pictures = [seeing.picture(0, *size) for size in SIZES]
    inputs = models.processed(pictures)
    written = f"What is {WRITTEN} and {WRITTEN} and the capital?"
    # The engine's own tokenizer does not put the first token before a text.
    expected = models.tokenizer(written)["input_ids"][1:]
    assert inputs["input_ids"].as_numpy()[0].tolist() == expected
    assert inputs["num_image_tokens"].as_numpy().tolist() == [256]


@pytest.mark.parametrize("size", [*SIZES, (64, 64), (900, 30), (1, 1)])
def test_pixels_are_those_of_transformers(models: Models, size: tuple[int, int]) -> None:
    pictures = [seeing.picture(1, *size)]
    pixels = models.processed(pictures)["pixel_values"].as_numpy()
    difference = np.abs(pixels - given(models, pictures).numpy())
    # Some pixels are rounded the other way: 1 of 255 levels.
    assert difference.max() < 1.01 / 255 / 0.5
    assert difference.mean() < 0.003


@pytest.mark.parametrize("count", [0, 1, 2])
def test_answers_are_those_of_transformers(models: Models, count: int) -> None:
    import torch

    def prepare(seed: int) -> tuple[Any, dict[str, Any]]:
        inputs = models.processed([seeing.picture(seed, *size) for size in SIZES[:count]])
        # Types of tokens: those of a picture see each other.
        names = ("pixel_values", "token_type_ids") if count else ()
        return inputs, {name: torch.from_numpy(inputs[name].as_numpy()) for name in names}

    ids, given, logits = models.compare(prepare)
    if count:
        del given["token_type_ids"]
        _, causal = seeing.expected(models.hf, ids, **given)
        assert np.abs(causal[0] - logits[0]).max() > 0.1
