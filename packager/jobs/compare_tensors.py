"""Compare the tensors of a Hugging Face folder with those its model expects. A job because
transformers prints a lot and may run the model's own code.

The model is created on torch's meta device: transformers' own rules (tied, renamed and fused
matrices) compare names and shapes, and no weights are read.
"""

from pathlib import Path
from typing import Any

import msgspec

from packager.jobs.job import Job, Work
from packager.weights import checkpoint


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between the tensors of a file and those of the model, by name.

    Attributes:
        missing: tensors that the model expects and the file lacks.
        mismatched: tensors of an unexpected shape, each with both shapes.
        unexpected: tensors that the model does not use.
        untied: True if the configuration ties embedding and head, and the file has different ones:
            transformers then uses both.
    """

    missing: list[str]
    mismatched: list[str]
    unexpected: list[str]
    untied: bool = False


class CompareTensors(Job[Tensors], frozen=True, kw_only=True):
    """Compare the tensors of a folder with those that its config.json calls for.

    Attributes:
        folder: Hugging Face folder.
        trust_remote_code: run Python code that comes with the model.
    """

    folder: Path
    trust_remote_code: bool

    def run(self, work: Work) -> Tensors:
        """Compare the tensors."""
        from transformers import AutoModelForCausalLM

        model, info = AutoModelForCausalLM.from_pretrained(
            self.folder,
            dtype="auto",
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=self.trust_remote_code,
        )
        compared = tensors(info)
        pairs = model.all_tied_weights_keys.items()
        return msgspec.structs.replace(
            compared, untied=any(self._differ(name, other) for name, other in pairs)
        )

    def _differ(self, *names: str) -> bool:
        """Compare two tensors of the files; False if only one of them is stored."""
        import torch
        from safetensors import safe_open

        stored = []
        for path in checkpoint.files(self.folder):
            with safe_open(path, framework="pt") as file:
                # A prefix stands before the text part of a model with several parts.
                stored += [
                    file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118 - not a mapping
                    if f".{key}".endswith(tuple(f".{name}" for name in names))
                ]
        return len(stored) > 1 and not torch.equal(*stored[:2])


def tensors(info: dict[str, Any]) -> Tensors:
    """Read the names from transformers' loading info."""
    return Tensors(
        missing=sorted(info["missing_keys"]),
        mismatched=sorted(
            f"{name} {list(stored)} instead of {list(expected)}"
            for name, stored, expected in info["mismatched_keys"]
        ),
        unexpected=sorted(info["unexpected_keys"]),
    )
