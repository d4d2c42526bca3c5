"""Qwen2.5-VL that sees, from its Hugging Face folder to answers: fp32 against transformers."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from device_runtime.inference import engine
from device_runtime.inference.engine import Message
from device_runtime.inference.vision_prompt import VisionPrompts
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs.job import Work
from packager.jobs.measure_pictures import MeasurePictures
from packager.jobs.picture_prompts import MakePrompts
from packager.jobs.refer_pictures import ReferPictures
from packager.jobs.seeing import INDEX, Question
from tests.support import seeing, tiny_seeing
from tests.support.seeing import Models

pytestmark = pytest.mark.slow

SIZES = [(150, 100), (40, 70)]
"""The first picture is 2 windows high and 3 wide: 4 by 5 tokens, in windows of 2 by 2."""


class DeviceModels(Models):
    """Models whose prompts are made as on a device."""

    def inputs(self, pictures: list[Image.Image]) -> Any:
        """Make the engine's inputs of a prompt with some pictures, as the device does."""
        import onnxruntime_genai as og

        def process(prompt: str, files: list[bytes]) -> dict[str, Any]:
            tensors = self.processor(prompt, images=og.Images.open_bytes(*files))
            return {name: tensors[name] for name in tensors.keys()}  # noqa: SIM118

        def render(turns: list[dict[str, Any]]) -> str:
            (turn,) = turns
            marks = {"text": "", "image": self.mark}
            return "".join(part.get("text", marks[part["type"]]) for part in turn["content"])

        if not pictures:
            return self.processor("What is the capital?")
        content: list[str | engine.Image] = ["What is"]
        for picture in pictures:
            content += [" ", engine.Image(seeing.png(picture)), " and"]
        message = Message(role="user", content=(*content, " the capital?"))
        prompts = VisionPrompts("qwen2_5_vl", Tokenizer(self.folder), process)
        ids, tensors = prompts.encode([message], render)
        inputs = og.NamedTensors()
        for name, value in (tensors | {"input_ids": np.array([ids], np.int32)}).items():
            inputs[name] = og.Tensor(value) if isinstance(value, np.ndarray) else value
        return inputs

    def given(self, pictures: list[Image.Image]) -> Any:
        """Return what transformers' model takes of pictures."""
        return self.pictures(pictures, return_tensors="pt") if pictures else {}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> DeviceModels:
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pictures

    return DeviceModels(
        tmp_path_factory.mktemp("qwen2_5_vl"),
        tiny_seeing.make_qwen2_5_vl,
        "Qwen2_5_VLForConditionalGeneration",
        "<|vision_start|><|image_pad|><|vision_end|>",
        pictures.Qwen2VLImageProcessorPil,
    )


def test_prompt_has_the_tokens_that_transformers_writes(models: DeviceModels) -> None:
    inputs = models.inputs([seeing.picture(0, *size) for size in SIZES])
    large, small = (
        f"<|vision_start|>{count * '<|image_pad|>'}<|vision_end|>" for count in (4 * 5, 3 * 2)
    )
    expected = models.tokenizer(f"What is {large} and {small} and the capital?")["input_ids"]
    assert inputs["input_ids"].as_numpy()[0].tolist() == expected
    assert inputs["num_image_tokens"].as_numpy().tolist() == [4 * 5 + 3 * 2]


@pytest.mark.parametrize(
    "sizes", [[size] for size in (*SIZES, (64, 64), (900, 30), (1, 1), (300, 200))] + [SIZES]
)
def test_pixels_are_those_of_transformers(
    models: DeviceModels, sizes: list[tuple[int, int]]
) -> None:
    pictures = [seeing.picture(1, *size) for size in sizes]
    inputs, given = models.inputs(pictures), models.given(pictures)
    assert inputs["image_grid_thw"].as_numpy().tolist() == given["image_grid_thw"].tolist()
    assert np.abs(inputs["pixel_values"].as_numpy() - given["pixel_values"].numpy()).max() < 1e-6


@pytest.mark.parametrize("count", [0, 1, 2])
def test_answers_are_those_of_transformers(models: DeviceModels, count: int) -> None:
    import torch

    def prepare(seed: int) -> tuple[Any, dict[str, Any]]:
        pictures = [seeing.picture(seed, *size) for size in SIZES[:count]]
        inputs = models.inputs(pictures)
        is_image = inputs["input_ids"].as_numpy() == models.hf.config.image_token_id
        types = torch.from_numpy(is_image).int()
        return inputs, {**models.given(pictures), "mm_token_type_ids": types}

    ids, given, logits = models.compare(prepare)
    del given["mm_token_type_ids"]
    if count:
        # Rows and columns of a picture's tokens matter.
        places = torch.arange(ids.size).expand(3, 1, -1)
        prompt = torch.from_numpy(ids.astype(np.int64))
        with torch.inference_mode():
            flat = models.hf(input_ids=prompt, position_ids=places, **given).logits[0, -1]
        assert np.abs(flat.numpy() - logits[0]).max() > 0.1


@pytest.mark.parametrize("sections", [(2, 3, 3), ()])
def test_reference_of_the_gate_has_three_positions_a_token(
    models: DeviceModels, tmp_path: Path, sections: tuple[int, ...]
) -> None:
    questions = []
    for number, size in enumerate(SIZES):
        file = f"{number}.png"
        (tmp_path / file).write_bytes(seeing.png(seeing.picture(number, *size)))
        questions.append(Question(file=file, picture=file, text="What is this?"))
    (tmp_path / INDEX).write_bytes(msgspec.json.encode(questions))
    target = tmp_path / "made"
    target.mkdir()
    image_token = models.hf.config.image_token_id
    MakePrompts(model=models.folder, pictures=tmp_path, image_token=image_token).run(Work(target))
    prompts = target / "prompts.npz"
    ReferPictures(
        source=models.folder.parent / "text",
        floats=True,
        trust_remote_code=False,
        prompts=prompts,
        both_ways=False,
        sections=sections,
        max_tokens=seeing.TOKENS,
    ).run(Work(target))
    measured = MeasurePictures(
        model=models.folder,
        pictures=tmp_path,
        prompts=prompts,
        reference=target,
        max_tokens=seeing.TOKENS,
    ).run(Work(target))
    kl = max(measured.means.kl)
    assert kl < 1e-5 if sections else kl > 1e-2
