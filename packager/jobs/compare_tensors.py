"""Compare the tensors of a Hugging Face folder with those of its model: a job, as transformers
prints much and may run the model's own code.

The model is put on torch's meta device: names and shapes are compared by transformers' own rules
(tied matrices, renamed and fused ones), and no weight is read.
"""

from pathlib import Path
from typing import Any

import msgspec

from packager.jobs.job import Job, Work


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """How the tensors of a file differ from those of the model, by name.

    Attributes:
        missing: the model has them, the file does not.
        mismatched: of another shape than the configuration gives; the shapes follow the name.
        unexpected: the model has no place for them.
    """

    missing: list[str]
    mismatched: list[str]
    unexpected: list[str]


class CompareTensors(Job[Tensors], frozen=True, kw_only=True):
    """Compare what a folder holds with what its config.json calls for.

    Attributes:
        folder: Hugging Face folder.
        trust_remote_code: run Python code that comes with the model.
    """

    folder: Path
    trust_remote_code: bool

    def run(self, work: Work) -> Tensors:
        """Compare them."""
        from transformers import AutoModelForCausalLM

        _, info = AutoModelForCausalLM.from_pretrained(
            self.folder,
            dtype="auto",
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=self.trust_remote_code,
        )
        return tensors(info)


def tensors(info: dict[str, Any]) -> Tensors:
    """Take the names from transformers' loading info."""
    return Tensors(
        missing=sorted(info["missing_keys"]),
        mismatched=sorted(
            f"{name} {list(stored)} instead of {list(wanted)}"
            for name, stored, wanted in info["mismatched_keys"]
        ),
        unexpected=sorted(info["unexpected_keys"]),
    )
