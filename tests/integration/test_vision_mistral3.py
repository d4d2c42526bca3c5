"""Mistral 3 that sees, from its Hugging Face folder to answers: fp32 against transformers."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import seeing, tiny_seeing
from tests.support.seeing import Models

pytestmark = pytest.mark.slow

SIDE = 28  # of a token, pixels
SIZES = [(140, 84), (56, 112)]


class PaddedModels(Models):
    """Models whose pictures are padded here."""

    def inputs(self, pictures: list[Image.Image]) -> Any:
        """Make the engine's inputs of a prompt with some pictures.

        Pictures are processed one by one and padded here: the engine cuts some of them off if none
        is the largest in both directions.
        """
        import onnxruntime_genai as og

        inputs = self.processed(pictures)
        if len(pictures) < 2:
            return inputs
        pixels = [self.processed([picture])["pixel_values"].as_numpy()[0] for picture in pictures]
        height, width = (max(array.shape[axis] for array in pixels) for axis in (1, 2))
        padded = np.zeros((len(pixels), 3, height, width), np.float32)
        for place, array in zip(padded, pixels, strict=True):
            place[:, : array.shape[1], : array.shape[2]] = array
        whole = og.NamedTensors()
        for name in ("input_ids", "image_sizes", "num_image_tokens"):
            whole[name] = inputs[name]
        whole["pixel_values"] = og.Tensor(padded)
        return whole

    def given(self, pictures: list[Image.Image]) -> Any:
        """Return what transformers' model takes of pictures."""
        return self.pictures(pictures, patch_size=SIDE, return_tensors="pt") if pictures else {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> PaddedModels:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    return PaddedModels(
        tmp_path_factory.mktemp("mistral3"),
        tiny_seeing.make_mistral3,
        "Mistral3ForConditionalGeneration",
        "[IMG]",
        PixtralImageProcessorPil,
    )


def test_prompt_has_the_tokens_that_transformers_writes(models: PaddedModels) -> None:
    pictures = [seeing.picture(0, *size) for size in SIZES]
    inputs = models.inputs(pictures)
    # As PixtralProcessor, which needs a package more: rows of tokens, each with an end.
    wide, high = (
        "[IMG_BREAK]".join(rows * ["[IMG]" * columns]) + "[IMG_END]"
        for rows, columns in ((3, 5), (4, 2))
    )
    expected = models.tokenizer(f"What is {wide} and {high} and the capital?")["input_ids"]
    # The engine's own tokenizer does not put the first token before a text.
    assert inputs["input_ids"].as_numpy()[0].tolist() == expected[1:]
    assert inputs["num_image_tokens"].as_numpy().tolist() == [3 * 5 + 4 * 2]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers(models: PaddedModels, size: tuple[int, int]) -> None:
    pictures = [seeing.picture(1, *size)]
    inputs, given = models.inputs(pictures), models.given(pictures)
    assert np.abs(inputs["pixel_values"].as_numpy() - given["pixel_values"].numpy()).max() < 1e-6
    assert inputs["image_sizes"].as_numpy().tolist() == given["image_sizes"].tolist()


@pytest.mark.parametrize(
    ("size", "engine", "transformers"),
    [
        # The engine takes the nearest multiple of a token's side, transformers the next.
        ((100, 60), (56, 112), (84, 112)),
        # The engine holds the area to that of the largest square, transformers each side.
        ((560, 140), (56, 280), (56, 140)),
        ((10, 10), (28, 28), (28, 28)),
    ],
)
def test_other_pictures_are_resized_to_nearby_sizes(
    models: PaddedModels,
    size: tuple[int, int],
    engine: tuple[int, int],
    transformers: tuple[int, int],
) -> None:
    pictures = [seeing.picture(1, *size)]
    assert models.inputs(pictures)["image_sizes"].as_numpy().tolist() == [list(engine)]
    assert models.given(pictures)["image_sizes"].tolist() == [list(transformers)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_answers_are_those_of_transformers(models: PaddedModels, count: int) -> None:
    def prepare(seed: int) -> tuple[Any, dict[str, Any]]:
        pictures = [seeing.picture(seed, *size) for size in SIZES[:count]]
        return models.inputs(pictures), dict(models.given(pictures))

    models.compare(prepare)


def test_engine_cuts_pictures_off_that_are_not_the_largest_in_both_directions(
    models: PaddedModels,
) -> None:
    # Where this fails, the engine pads them itself, and `Models.inputs` need not.
    pixels = models.processed([seeing.picture(0, *size) for size in SIZES])["pixel_values"]
    assert pixels.as_numpy().shape[2:] != (112, 140)
