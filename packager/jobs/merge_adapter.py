"""Merge a LoRA adapter into a Hugging Face model. Runs as a child process:

    python -m packager.jobs.merge_adapter MODEL ADAPTER TARGET TRUST_REMOTE_CODE

A child, because it takes the memory of the whole model in fp32. What is wrong with the adapter is
on the last line it prints.
"""

import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.adapter import tokenizer_files
from packager.models.folder import HF_FILES

if TYPE_CHECKING:
    import torch

TOKENS = 16
"""Length of the made-up text on which both forms of the model are compared."""
TOLERANCE = 1e-3
"""Largest difference of their logits, as a share of the largest logit; fp32 sums differ by 1e-5."""


def merge(base: Path, adapter: Path, target: Path, *, trust_remote_code: bool) -> None:
    """Write the merged model, in fp32, as a Hugging Face folder.

    Raises:
        SystemExit: with the reason why the adapter cannot be merged into this model.
    """
    import torch
    from peft import PeftModel

    model = _load(base, trust_remote_code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing keys: `_check_keys` is exact
            together = PeftModel.from_pretrained(model, adapter)
    except (RuntimeError, ValueError) as error:  # its shapes, or its modules, are not the model's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(f"it does not fit the model: {lines[-1]}")
    _check_keys(together, adapter)
    tokens = torch.arange(TOKENS).unsqueeze(0) % model.get_input_embeddings().num_embeddings
    expected = _logits(together, tokens)
    merged = together.merge_and_unload(safe_merge=True)
    merged.save_pretrained(target)
    _copy_rest(base, adapter, target)
    del model, together, merged
    found = _logits(_load(target, trust_remote_code), tokens)
    difference = (found - expected).abs().max() / expected.abs().max()
    if not difference <= TOLERANCE:
        sys.exit(
            "the merged model does not compute what model and adapter compute together "
            f"(logits differ by {difference:.1%}), as when an adapter changes only one of two "
            "tied matrices: embeddings and head"
        )


def _load(folder: Path, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=trust_remote_code
    ).eval()


def _logits(model: Any, tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits for token ids [1, tokens]: a tensor [1, tokens, vocabulary]."""
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits.float()


def _check_keys(model: Any, adapter: Path) -> None:
    """Refuse weights that would have been left aside, and gaps that would have been filled."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    given = set(load_peft_weights(str(adapter), device="cpu"))
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    foreign = sorted(given - wanted - set(model.state_dict()))
    if foreign:
        sys.exit(f"it has weights for what the model does not have: {', '.join(foreign[:3])}")
    missing = sorted(wanted - given)
    if missing:
        sys.exit(f"it is incomplete: {', '.join(missing[:3])} missing")


def _copy_rest(base: Path, adapter: Path, target: Path) -> None:
    """Tokenizer, chat template and model card; a tokenizer beside the adapter is taken whole."""
    own = tokenizer_files(adapter)
    replaced = tokenizer_files(base) if own else []
    rest = [path for pattern in HF_FILES for path in base.glob(pattern) if path not in replaced]
    for path in (*own, *rest):
        weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.is_file() and not weights and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    merge(*map(Path, sys.argv[1:4]), trust_remote_code=sys.argv[4] == "true")
