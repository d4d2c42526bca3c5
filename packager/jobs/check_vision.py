"""Load a model that sees, and let it answer about a picture. A job because loading a broken model
can crash the process, and because it measures the memory that a picture takes."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator

import msgspec

from packager import machine
from packager.jobs import generation, logits
from packager.jobs.job import Job, JobRefusedError, Work
from packager.vision.markers import MARKERS

SIDE = 1344
"""Side of the picture, pixels: more than any of the models takes at once."""

ANSWER = 8
"""Tokens to generate."""


class CheckedVision(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a model about a picture, and its cost.

    Attributes:
        family: type of the model, as the engine names it.
        image_tokens: tokens that the picture takes in the prompt.
        memory_bytes: memory that a prompt with it takes beyond that of a short text.
        seconds: time from the picture to the first token.
    """

    family: str
    image_tokens: int
    memory_bytes: int
    seconds: float


class CheckVision(Job[CheckedVision], frozen=True, kw_only=True):
    """Let the model in the target, an ONNX GenAI folder, answer about two pictures."""

    def run(self, work: Work) -> CheckedVision:
        """Answer about them.

        Raises:
            JobRefusedError: the model's outputs are not numbers, or all the same, or the pictures
                do not change them.
        """
        import numpy as np
        import onnxruntime_genai as og

        folder = work.target
        family = json.loads((folder / "genai_config.json").read_text())["model"]["type"]
        model = generation.load(folder)
        processor = model.create_multimodal_processor()
        question = " What is this?"
        text = processor(question)["input_ids"].as_numpy()[0]
        runner = generation.generator(model, folder, len(text) + ANSWER)
        generation.prefill(runner, folder, text)

        before, start = machine.peak_memory(), time.monotonic()
        first = []
        for picture in _pictures():
            inputs = processor(MARKERS[family] + question, images=og.Images.open_bytes(picture))
            tokens = inputs["input_ids"].as_numpy().size
            runner = generation.generator(model, folder, tokens + ANSWER)
            runner.set_inputs(inputs)
            first.append(np.array(runner.get_logits()[0, -1]))
            logits.check(first[-1])
        seconds = (time.monotonic() - start) / len(first)
        if np.array_equal(first[0], first[1]):
            raise JobRefusedError(
                "the model gives the same answer for different pictures",
                hint="Its vision graph is damaged: export the model again.",
            )
        for _ in range(ANSWER - 1):
            runner.generate_next_token()
            if runner.is_done():
                break
            logits.check(runner.get_logits()[0, -1])
        return CheckedVision(
            family=family,
            image_tokens=int(inputs["num_image_tokens"].as_numpy().sum()),
            memory_bytes=machine.peak_memory() - before,
            seconds=seconds,
        )


def _pictures() -> Iterator[bytes]:
    """Yield two pictures as PNG: a disc, dark on light and the other way round."""
    from PIL import Image, ImageDraw

    for paper, ink in (("white", "navy"), ("black", "gold")):
        picture = Image.new("RGB", (SIDE, SIDE), paper)
        ImageDraw.Draw(picture).ellipse((SIDE // 8, SIDE // 4, SIDE // 2, SIDE // 2), fill=ink)
        file = io.BytesIO()
        picture.save(file, "PNG")
        yield file.getvalue()
