"""Compare the tensors of a Hugging Face folder with those of its model. Runs as a child process:

    python -m packager.jobs.compare_tensors FOLDER TRUST_REMOTE_CODE

The model is put on torch's meta device: names and shapes are compared by transformers' own rules
(tied matrices, renamed and fused ones), and no weight is read. The result is a `Tensors` as JSON on
the last line of stdout.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from packager.models.tensors import Tensors


def compare(folder: Path, *, trust_remote_code: bool) -> Tensors:
    """Compare what a folder holds with what its config.json calls for."""
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=trust_remote_code,
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


if __name__ == "__main__":
    compared = compare(Path(sys.argv[1]), trust_remote_code=sys.argv[2] == "true")
    sys.stdout.write("\n" + msgspec.json.encode(compared).decode() + "\n")
