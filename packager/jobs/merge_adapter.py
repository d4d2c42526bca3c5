"""Merge a LoRA adapter into a Hugging Face model. A job because it holds all weights in fp32."""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.jobs.job import Job, JobRefusedError, Work
from packager.weights import checkpoint

if TYPE_CHECKING:
    import torch

TOKENS = 16
"""Length of the synthetic input on which both forms of the model are compared."""
TOLERANCE = 1e-3
"""Largest allowed difference of logits, relative to the largest logit; fp32 rounding gives 1e-5."""


class MergeAdapter(Job[None], frozen=True, kw_only=True):
    """Write the merged model, in fp32, as a Hugging Face folder.

    Attributes:
        base: Hugging Face folder of the base model.
        adapter: folder of the adapter.
        copied: files to copy unchanged: tokenizer, chat template, model card.
        trust_remote_code: run Python code that comes with the model.
    """

    base: Path
    adapter: Path
    copied: tuple[Path, ...]
    trust_remote_code: bool

    def run(self, work: Work) -> None:
        """Merge the adapter, and compare the result with the base model and adapter unmerged.

        Raises:
            JobRefusedError: the adapter cannot be merged into this model.
        """
        import torch
        from peft import PeftModel

        model = _load(self.base, self.trust_remote_code)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about missing keys: `_check_keys` is exact
                combined = PeftModel.from_pretrained(model, self.adapter)
        except (RuntimeError, ValueError) as error:
            # The adapter's shapes or modules are not those of the model.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise JobRefusedError(f"the adapter does not fit the model: {lines[-1]}") from None
        _check_keys(combined, self.adapter)
        tokens = torch.arange(TOKENS).unsqueeze(0) % model.get_input_embeddings().num_embeddings
        expected = _logits(combined, tokens)
        merged = combined.merge_and_unload(safe_merge=True)
        merged.save_pretrained(work.target)
        for path in self.copied:
            folder = self.base if path.is_relative_to(self.base) else self.adapter
            target = checkpoint.place(path, folder, work.target)
            if not target.exists():
                shutil.copyfile(path, target)
        del model, combined, merged
        logits = _logits(_load(work.target, self.trust_remote_code), tokens)
        difference = (logits - expected).abs().max() / expected.abs().max()
        if not difference <= TOLERANCE:
            raise JobRefusedError(
                "the merged model does not match the base model with the adapter "
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
    """Compute logits `[1, tokens, vocabulary]` of token ids `[1, tokens]`."""
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits.float()


def _check_keys(model: Any, adapter: Path) -> None:
    """Refuse an adapter with weights that PEFT would ignore, or without some that it would fill in.

    Raises:
        JobRefusedError: the adapter's weights are not exactly those expected.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    stored = set(load_peft_weights(str(adapter), device="cpu"))
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    foreign = sorted(stored - expected - set(model.state_dict()))
    if foreign:
        raise JobRefusedError(
            "the adapter has weights for modules that the model lacks: " + ", ".join(foreign[:3])
        )
    missing = sorted(expected - stored)
    if missing:
        raise JobRefusedError(f"the adapter is incomplete: {', '.join(missing[:3])} missing")
