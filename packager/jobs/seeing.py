"""Prompts with a picture for an ONNX GenAI folder of a model that sees, in ONNX Runtime GenAI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.errors import DeviceError
from device_runtime.inference.engine import Image, Message
from device_runtime.inference.vision_prompt import Tensors, VisionPrompts
from device_runtime.tokenizer.files import chat_templates
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation
from packager.jobs.job import JobRefusedError

if TYPE_CHECKING:
    pass

INDEX = "pictures.json"
"""Name of the file that lists the pictures of a folder: JSON array of `Question`."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question about a picture.

    Attributes:
        file: name of the picture's file in the folder.
        picture: name of the picture, for people.
        text: the question.
    """

    file: str
    picture: str
    text: str


def questions(pictures: Path) -> list[Question]:
    """Read the index of a folder of pictures."""
    return msgspec.json.decode((pictures / INDEX).read_bytes(), type=list[Question])


class SeeingModel:
    """A loaded model that sees.

    Attributes:
        vision: the section `vision` of its genai_config.json.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = generation.load(folder)
        self._processor = self._model.create_multimodal_processor()
        section = json.loads((folder / "genai_config.json").read_text())["model"]
        self.vision: dict[str, Any] = section["vision"]
        self._prompts = VisionPrompts(section["type"], Tokenizer(folder), self._process)

    def prompt(self, pictures: Path, question: Question) -> tuple[list[int], Tensors]:
        """Make a prompt as the device does: its token ids, and the tensors of the picture.

        Raises:
            JobRefusedError: a device would refuse it.
        """
        picture = Image((pictures / question.file).read_bytes())
        turn = Message(role="user", content=(picture, question.text))
        chat = bool(chat_templates(self._folder))
        render = ChatTemplates.of(self._folder).render if chat else _text
        try:
            return self._prompts.encode([turn], render)
        except DeviceError as error:
            raise JobRefusedError(
                f"the question about the picture {question.picture}: {error}", hint=error.hint
            ) from error

    def start(self, ids: Sequence[int], tensors: Tensors, answer: int) -> Any:
        """Create a greedy generator that has read a prompt.

        Args:
            ids: token ids of the prompt.
            tensors: tensors of its picture.
            answer: maximum length of the answer, tokens.
        """
        import onnxruntime_genai as og

        inputs = og.NamedTensors()
        for name, tensor in tensors.items():
            inputs[name] = tensor
        inputs["input_ids"] = og.Tensor(np.array([ids], np.int32))
        runner = generation.generator(self._model, self._folder, len(ids) + answer)
        runner.set_inputs(inputs)
        return runner

    def _process(self, prompt: str, files: list[bytes]) -> Tensors:
        import onnxruntime_genai as og

        named = self._processor(prompt, images=og.Images.open_bytes(*files))
        return {name: named[name] for name in named.keys()}  # noqa: SIM118  (not a mapping)


def _text(turns: list[dict[str, Any]]) -> str:
    """Render the turn of a model without a chat template."""
    (turn,) = turns
    content = turn["content"]
    return content if isinstance(content, str) else ""


def generate(runner: Any, tokens: int) -> list[int]:
    """Generate the tokens of a greedy answer with a generator that has read the prompt.

    Args:
        runner: the generator.
        tokens: maximum length of the answer.
    """
    answer: list[int] = []
    while len(answer) < tokens and not runner.is_done():
        runner.generate_next_token()
        answer.append(int(runner.get_next_tokens()[0]))
    return answer
