"""Gemma 3 that sees, from its Hugging Face folder to answers: fp32 against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from packager.jobs import generation
from tests.support import seeing, tiny_seeing

pytestmark = pytest.mark.slow

MARK = "<start_of_image>"
WRITTEN = f"\n\n{MARK}{256 * '<image_soft_token>'}<end_of_image>\n\n"
SIZES = [(150, 100), (40, 70)]


class Models:
    """The same model in transformers and in the engine."""

    def __init__(self, hf: Path, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, Gemma3ForConditionalGeneration
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        self.folder = folder
        self.engine = generation.load(folder)
        self.processor = self.engine.create_multimodal_processor()
        self.hf = Gemma3ForConditionalGeneration.from_pretrained(hf, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(hf)
        self.pictures = Gemma3ImageProcessorPil.from_pretrained(hf)

    def inputs(self, pictures: list[Image.Image]) -> Any:
        """Make the engine's inputs of a prompt with some pictures."""
        import onnxruntime_genai as og

        prompt = "What is" + "".join(f" {MARK} and" for _ in pictures) + " the capital?"
        if not pictures:
            return self.processor(prompt)
        images = og.Images.open_bytes(*map(seeing.png, pictures))
        return self.processor(prompt, images=images)

    def given(self, pictures: list[Image.Image]) -> Any:
        """Return the pictures as transformers' model takes them."""
        return self.pictures(pictures, return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    work = tmp_path_factory.mktemp("gemma3")
    hf = tiny_seeing.make_gemma3(work / "hf")
    return Models(hf, seeing.build(hf, work / "built"))


def test_prompt_has_the_tokens_that_transformers_writes(models: Models) -> None:
    pictures = [seeing.picture(0, *size) for size in SIZES]
    inputs = models.inputs(pictures)
    written = f"What is {WRITTEN} and {WRITTEN} and the capital?"
    # The engine's own tokenizer does not put the first token before a text.
    expected = models.tokenizer(written)["input_ids"][1:]
    assert inputs["input_ids"].as_numpy()[0].tolist() == expected
    assert inputs["num_image_tokens"].as_numpy().tolist() == [256]


@pytest.mark.parametrize("size", [*SIZES, (64, 64), (900, 30), (1, 1)])
def test_pixels_are_those_of_transformers(models: Models, size: tuple[int, int]) -> None:
    pictures = [seeing.picture(1, *size)]
    pixels = models.inputs(pictures)["pixel_values"].as_numpy()
    difference = np.abs(pixels - models.given(pictures).numpy())
    # Some pixels are rounded the other way: 1 of 255 levels.
    assert difference.max() < 1.01 / 255 / 0.5
    assert difference.mean() < 0.003


@pytest.mark.parametrize("count", [0, 1, 2])
def test_answers_are_those_of_transformers(models: Models, count: int) -> None:
    import torch

    for seed in range(20):
        pictures = [seeing.picture(seed, *size) for size in SIZES[:count]]
        inputs = models.inputs(pictures)
        ids = inputs["input_ids"].as_numpy()
        given = {}
        if pictures:
            given["pixel_values"] = torch.from_numpy(inputs["pixel_values"].as_numpy())
            # The tokens of a picture see each other.
            given["token_type_ids"] = torch.from_numpy(inputs["token_type_ids"].as_numpy())
        tokens, logits = seeing.expected(models.hf, ids, **given)
        if seeing.tells(tokens, logits):
            break
    else:
        pytest.fail("no picture tells of more than rounding")
    actual, scores = seeing.answer(models.engine, models.folder, inputs)
    assert actual == tokens
    assert np.abs(scores - logits).max() < 1e-3
    if pictures:
        del given["token_type_ids"]
        _, causal = seeing.expected(models.hf, ids, **given)
        assert np.abs(causal[0] - logits[0]).max() > 0.1
