"""Measure a speech model in ONNX Runtime GenAI, which serves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from packager.jobs import generation, logits
from packager.jobs.divergence import Collected, WindowMeans, compare
from packager.jobs.job import Job, JobRefusedError, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MeasureSpeech(Job[WindowMeans], frozen=True, kw_only=True):
    """Measure a speech model against its reference. The unit of progress is a recording.

    It gets the reference model's spectrogram, and reads the text token by token, with the kernels
    that decode.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        reference: folder of a `ReferSpeech` job.
    """

    model: Path
    reference: Path

    def run(self, work: Work) -> WindowMeans:
        """Measure the model.

        Raises:
            JobRefusedError: the logits are not numbers, or do not match the reference.
        """
        import onnxruntime_genai as og

        model = generation.load(self.model)
        collected = Collected()
        for path in sorted(self.reference.glob("reference-*.npz")):
            with np.load(path) as stored:
                reference: dict[str, NDArray[Any]] = dict(stored)
            prompt, tokens = reference["prompt"], reference["tokens"]
            # These tensors serve one generator only.
            inputs = og.NamedTensors()
            inputs["audio_features"] = og.Tensor(reference["features"])
            inputs["input_ids"] = og.Tensor(prompt[None].astype(np.int32))
            runner = generation.generator(model, self.model, len(prompt) + len(tokens))
            runner.set_inputs(inputs)
            rows = generation.forced(runner, tokens.tolist())
            if rows.shape != reference["logprobs"].shape:
                raise JobRefusedError(
                    f"the model has a vocabulary of {rows.shape[1]} tokens, the reference model "
                    f"{reference['logprobs'].shape[1]}"
                )
            logits.check(rows)
            collected.add(compare(rows, reference["logprobs"], reference["top1"], tokens))
            work.advance(1)
        return collected.means()
