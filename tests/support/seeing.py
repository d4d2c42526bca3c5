"""Answers about pictures: those of the engine, with a model as a build makes it, and those of
transformers."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from packager.jobs import generation
from packager.jobs.export_vision import ExportVision
from packager.jobs.extract_text import ExtractText
from packager.jobs.job import Work
from packager.models.folder import hf_files
from packager.models.text_model import unchanged
from packager.recipes.recipes import RECIPES
from packager.vision.attach import attach
from tests.support.families import builds

TOKENS = 8
"""Length of an answer, tokens."""


def build(hf: Path, work: Path) -> Path:
    """Build a Hugging Face folder in fp32, as a build does; returns the ONNX GenAI folder.

    What the export tells of the vision part is in `exported.json` beside it.
    """
    for name in ("text", "vision"):
        (work / name).mkdir(parents=True)
    ExtractText(source=hf, copied=unchanged(hf_files(hf))).run(Work(work / "text"))
    builds.build(work / "text", work / "onnx", RECIPES["fp32"])
    family = json.loads((hf / "config.json").read_text())["model_type"]
    exported = ExportVision(source=hf, family=family).run(Work(work / "vision"))
    (work / "exported.json").write_bytes(msgspec.json.encode(exported))
    attach(work / "onnx", work / "vision", exported, work / "whole")
    return work / "whole"


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Make a picture of large and small structures."""
    random = np.random.default_rng(seed)

    def noise(columns: int, rows: int) -> Image.Image:
        values = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)

    return Image.blend(noise(4, 4), noise(width, height), 0.2)


def png(image: Image.Image) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Models:
    """The same tiny model in transformers and in the engine.

    Args:
        work: a folder for what it is made of.
        make: writes the Hugging Face folder, and returns it.
        architecture: its class in transformers.
        mark: text in the place of a picture in a prompt.
        pictures: class of its image processor in transformers; None for none.
    """

    def __init__(
        self,
        work: Path,
        make: Callable[[Path], Path],
        architecture: str,
        mark: str,
        pictures: Any = None,
    ) -> None:
        import torch
        import transformers

        hf = make(work / "hf")
        self.folder = build(hf, work / "built")
        self.engine = generation.load(self.folder)
        self.processor = self.engine.create_multimodal_processor()
        self.hf = getattr(transformers, architecture).from_pretrained(hf, dtype=torch.float32)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
        self.pictures: Any = pictures.from_pretrained(hf) if pictures is not None else None
        self.mark = mark

    def processed(self, pictures: list[Image.Image]) -> Any:
        """Let the engine make its inputs of a prompt with some pictures."""
        import onnxruntime_genai as og

        prompt = "What is" + f" {self.mark} and" * len(pictures) + " the capital?"
        if not pictures:
            return self.processor(prompt)
        return self.processor(prompt, images=og.Images.open_bytes(*map(png, pictures)))

    def compare(
        self, prepare: Callable[[int], tuple[Any, dict[str, Any]]]
    ) -> tuple[npt.NDArray[np.int32], dict[str, Any], npt.NDArray[np.float32]]:
        """Compare an answer of the engine with that of transformers.

        Random numbers and rounding differ between processors: the answer is to the first pictures
        that tell of more than rounding, and than one token again and again.

        Args:
            prepare: makes pictures of a seed; returns the engine's inputs, and what transformers'
                model takes besides token ids.

        Returns:
            The prompt's tokens, what transformers' model took, and its logits.
        """
        for seed in range(20):
            inputs, given = prepare(seed)
            ids: npt.NDArray[np.int32] = inputs["input_ids"].as_numpy()
            tokens, logits = expected(self.hf, ids, **given)
            second, first = np.sort(logits)[:, -2:].T
            if (first - second).min() > builds.MARGIN and len(set(tokens)) > 2:
                break
        else:
            pytest.fail("no picture tells of more than rounding")
        actual, scores = answer(self.engine, self.folder, inputs)
        assert actual == tokens
        assert np.abs(scores - logits).max() < 1e-3
        return ids, given, logits


def answer(model: Any, folder: Path, inputs: Any) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Let the engine answer a prompt.

    Args:
        model: the loaded model.
        folder: its folder.
        inputs: named tensors of the prompt.

    Returns:
        The tokens, and the logits that each was chosen by.
    """
    prompt = inputs["input_ids"].as_numpy().size
    runner = generation.generator(model, folder, prompt + TOKENS)
    runner.set_inputs(inputs)
    logits = []
    for _ in range(TOKENS):
        logits.append(np.array(runner.get_logits()[0, -1]))
        runner.generate_next_token()
    return runner.get_sequence(0)[prompt:].tolist(), np.stack(logits)


def expected(
    model: Any, ids: npt.NDArray[np.int32], **inputs: Any
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Let transformers answer a prompt, as `answer`."""
    import torch

    prompt = torch.from_numpy(ids.astype(np.int64))
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **inputs,
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.stack(output.logits)[:, 0].numpy()
    return output.sequences[0, prompt.shape[1] :].tolist(), logits
