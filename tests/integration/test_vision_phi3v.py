"""Phi-3-vision: what the engine answers about pictures is what torch does."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
import pytest
import torch
from PIL import Image, ImageDraw

from packager.jobs import generation
from packager.vision import phi3v
from tests.support import seeing, tiny_phi3v
from tests.support.families.builds import MARGIN
from tests.support.tiny_phi3v import Reference

pytestmark = pytest.mark.slow

TOKENS = 16
QUESTIONS = ("What is it?", "How many discs?", "Read the text.", "Why?", "Go on.")


def picture(width: int, height: int) -> Image.Image:
    """Discs and words in many colours."""
    random = np.random.default_rng(width)
    picture = Image.new("RGB", (width, height), "navy")
    draw = ImageDraw.Draw(picture)
    for number in range(30):
        x, y, size = random.integers(3, (width, height, 4 + width // 4)).tolist()
        colour = tuple(random.integers(0, 256, 3).tolist())
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        draw.text((x, y), f"Hello {number}", fill="white")
    return picture


def answer(model: og.Model, folder: Path, inputs: Any) -> tuple[list[int], np.ndarray]:
    """Greedy tokens, whatever ends a text, and the logits of the first."""
    length = inputs["input_ids"].as_numpy().size + TOKENS
    runner = generation.generator(model, folder, length, min_length=length)
    runner.set_inputs(inputs)
    logits = np.array(runner.get_logits()).reshape(-1)
    for _ in range(TOKENS):
        runner.generate_next_token()
    return runner.get_sequence(0)[-TOKENS:].tolist(), logits


@pytest.fixture(scope="module")
def phi3v_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_phi3v.make_hf(tmp_path_factory.mktemp("hf") / "phi3v")


@pytest.fixture(scope="module")
def phi3v_model(phi3v_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing.build(phi3v_hf, tmp_path_factory.mktemp("phi3v"))


@pytest.mark.parametrize(
    "sizes", [[(400, 300)], [(120, 500)], [(640, 480), (100, 300)], [(90, 90), (60, 80), (800, 90)]]
)
def test_phi3v_answers_as_torch_does(
    phi3v_hf: Path, phi3v_model: Path, sizes: list[tuple[int, int]]
) -> None:
    """Two pictures make a prompt below 4,096 tokens, three one beyond: other rotary factors."""
    model = og.Model(str(phi3v_model))
    processor = model.create_multimodal_processor()
    pictures = [picture(*size) for size in sizes]
    reference, features = Reference.load(phi3v_hf), None
    images = og.Images.open_bytes(*[seeing.png(picture) for picture in pictures])
    markers = "".join(f"<|image_{number}|>\n" for number, _ in enumerate(pictures, 1))
    for question in QUESTIONS:
        prompt = f"<|user|>\n{markers}{question}<|end|>\n<|assistant|>\n"
        inputs = processor(prompt, images=images)
        if features is None:
            prepared = [tiny_phi3v.prepare(picture, phi3v.CROPS) for picture in pictures]
            pixels, shapes = (torch.stack(parts) for parts in zip(*prepared, strict=True))
            compare_pixels(inputs, pixels.numpy(), shapes.numpy())
            # The small copies of the whole differ: see `compare_pixels`.
            pixels = torch.from_numpy(inputs["pixel_values"].as_numpy())
            features = reference.features(pixels, shapes)
        ids = torch.from_numpy(inputs["input_ids"].as_numpy()[0]).long()
        expected, logits = reference.generate(ids, features, TOKENS)
        best = np.sort(logits)[:, -2:]
        if (best[:, 1] - best[:, 0]).min() > MARGIN and len(set(expected)) > TOKENS / 4:
            break
    else:
        raise AssertionError("all answers hang on rounding, or repeat a token")
    tokens, first = answer(model, phi3v_model, inputs)
    assert tokens == expected
    finite = np.isfinite(logits[0])
    assert np.abs(first - logits[0])[finite].max() < 1e-4 * logits[0][finite].std()
    other = reference.generate(ids, torch.zeros_like(features), TOKENS)[0]
    assert tokens != other, "the pictures decide"


def compare_pixels(inputs: Any, pixels: np.ndarray, sizes: np.ndarray) -> None:
    """Compare the engine's crops with those of the publisher's code.

    Pillow and the engine resize alike, but for one grey level where the engine transposes nothing.
    The small copy of the whole is the engine's own: it averages what torch skips.
    """
    assert np.array_equal(inputs["image_sizes"].as_numpy(), sizes)
    counts = [phi3v.tokens(*grid) for grid in (sizes // tiny_phi3v.CROP).tolist()]
    assert inputs["num_image_tokens"].as_numpy().reshape(-1).tolist() == counts
    error = np.abs(inputs["pixel_values"].as_numpy() - pixels)
    level = 1 / 255 / min(tiny_phi3v.DEVIATION)
    assert error[:, 1:].max() < 1.01 * level
    assert error[:, 0].mean() < 0.05


def test_phi3v_runs_no_code_of_the_model(phi3v_hf: Path, tmp_path: Path) -> None:
    """What comes with a model raises an error when it runs, and it is not even needed."""
    assert len(list(phi3v_hf.glob("*.py"))) == 3
    copy = shutil.copytree(phi3v_hf, tmp_path / "hf", ignore=shutil.ignore_patterns("*.py"))
    assert (seeing.build(copy, tmp_path) / "genai_config.json").is_file()
