"""Measure a model that sees on prompts with pictures, in ONNX Runtime GenAI, which serves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation, logits, seeing
from packager.jobs.divergence import Collected, WindowMeans, compare
from packager.jobs.job import Job, JobRefusedError, Work
from packager.jobs.seeing import SeeingModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PictureMeans(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a model on pictures.

    Attributes:
        means: of the answer to each picture.
        answers: the model's own answers.
        reference_answers: those of the reference model.
    """

    means: WindowMeans
    answers: tuple[str, ...]
    reference_answers: tuple[str, ...]


class MeasurePictures(Job[PictureMeans], frozen=True, kw_only=True):
    """Measure a model against its reference. The unit of progress is a picture.

    The reference model's answer is read token by token, with the kernels that decode; the model's
    own answer is the same text as long as it would choose the same tokens.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        pictures: folder of pictures.
        prompts: `prompts.npz` of a `MakePrompts` job.
        reference: folder of a `ReferPictures` job.
        max_tokens: maximum length of an answer.
    """

    model: Path
    pictures: Path
    prompts: Path
    reference: Path
    max_tokens: int

    def run(self, work: Work) -> PictureMeans:
        """Measure the model.

        Raises:
            JobRefusedError: the logits are not numbers, or do not match the reference.
        """
        model, tokenizer = SeeingModel(self.model), Tokenizer(self.model)
        collected = Collected()
        answers, reference_answers = [], []
        prompts = _arrays(self.prompts)
        for number, question in enumerate(seeing.questions(self.pictures)):
            reference = _arrays(self.reference / f"answer-{number}.npz")
            tokens, expected = reference["tokens"], reference["logprobs"]
            ids = prompts[f"ids.{number}"].tolist()
            _, tensors = model.prompt(self.pictures, question)
            rows = generation.forced(model.start(ids, tensors, self.max_tokens), tokens.tolist())
            if rows.shape != expected.shape:
                raise JobRefusedError(
                    f"the model has a vocabulary of {rows.shape[1]} tokens, the reference model "
                    f"{expected.shape[1]}"
                )
            logits.check(rows)
            collected.add(compare(rows, expected, reference["top1"], tokens))
            own = tokens.tolist()
            if (rows.argmax(-1) != tokens).any():
                own = seeing.generate(model.start(ids, tensors, self.max_tokens), self.max_tokens)
            answers.append(tokenizer.decode(own).strip())
            reference_answers.append(tokenizer.decode(tokens.tolist()).strip())
            work.advance(1)
        return PictureMeans(
            means=collected.means(),
            answers=tuple(answers),
            reference_answers=tuple(reference_answers),
        )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as stored:
        return dict(stored)
