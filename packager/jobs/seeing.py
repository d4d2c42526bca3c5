"""Prompts with a picture for an ONNX GenAI folder of a model that sees, in ONNX Runtime GenAI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.tokenizer.files import chat_templates
from device_runtime.tokenizer.templates import ChatTemplates
from packager.jobs import generation
from packager.vision.markers import MARKERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX = "pictures.json"
"""Name of the file that lists the pictures of a folder: JSON array of `Question`."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question about a picture.

    Attributes:
        file: name of the picture's file, a PNG, in the folder.
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
        self._marker = MARKERS[section["type"]]
        self.vision: dict[str, Any] = section["vision"]

    def tensors(self, pictures: Path, question: Question) -> Any:
        """Make the tensors of a prompt: token ids, pixels and what belongs to them."""
        import onnxruntime_genai as og

        text = self._marker + question.text
        if chat_templates(self._folder):
            turn = [{"role": "user", "content": text}]
            text = ChatTemplates.of(self._folder).render(turn)
        images = og.Images.open_bytes((pictures / question.file).read_bytes())
        return self._processor(text, images=images)

    def start(self, tensors: Any, ids: NDArray[np.int64], answer: int) -> Any:
        """Create a greedy generator that has read a prompt.

        Args:
            tensors: tensors of the prompt.
            ids: token ids to put in the place of theirs, `[tokens]`.
            answer: maximum length of the answer, tokens.
        """
        import onnxruntime_genai as og

        inputs = og.NamedTensors()
        for name in tensors.keys():  # noqa: SIM118  (not a mapping)
            inputs[name] = tensors[name]
        inputs["input_ids"] = og.Tensor(ids.astype(np.int32)[None])
        runner = generation.generator(self._model, self._folder, len(ids) + answer)
        runner.set_inputs(inputs)
        return runner


def forced(runner: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Compute the logits `[tokens, vocabulary]` that a generator gives for tokens to come.

    Args:
        runner: a generator that has read the prompt; afterwards it has read the tokens.
        tokens: token ids of an answer.
    """
    rows = []
    for token in tokens:
        rows.append(runner.get_logits()[0, -1].astype(np.float32))
        runner.append_tokens([token])
    return np.stack(rows)


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
