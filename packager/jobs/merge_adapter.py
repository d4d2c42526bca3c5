"""Merge a LoRA adapter into a Hugging Face model: a job for the memory of it all in fp32."""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.jobs.job import Job, RefusedError, Work

if TYPE_CHECKING:
    import torch

TOKENS = 16
"""Length of the made-up text on which both forms of the model are compared."""
TOLERANCE = 1e-3
"""Largest difference of their logits, as a share of the largest logit; fp32 sums differ by 1e-5."""


class MergeAdapter(Job[None], frozen=True, kw_only=True):
    """Write the merged model, in fp32, as a Hugging Face folder.

    Attributes:
        base: the model, a Hugging Face folder.
        adapter: folder of the adapter.
        copied: files that go along as they are: tokenizer, chat template, model card.
        trust_remote_code: run Python code that comes with the model.
    """

    base: Path
    adapter: Path
    copied: tuple[Path, ...]
    trust_remote_code: bool

    def run(self, work: Work) -> None:
        """Merge it, and compare the result with the model and the adapter side by side.

        Raises:
            RefusedError: the adapter cannot be merged into this model.
        """
        import torch
        from peft import PeftModel

        model = _load(self.base, self.trust_remote_code)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about missing keys: `_check_keys` is exact
                together = PeftModel.from_pretrained(model, self.adapter)
        except (RuntimeError, ValueError) as error:
            # Its shapes, or its modules, are not the model's.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise RefusedError(f"the adapter does not fit the model: {lines[-1]}") from None
        _check_keys(together, self.adapter)
        tokens = torch.arange(TOKENS).unsqueeze(0) % model.get_input_embeddings().num_embeddings
        expected = _logits(together, tokens)
        merged = together.merge_and_unload(safe_merge=True)
        merged.save_pretrained(work.target)
        for path in self.copied:
            if not (work.target / path.name).exists():
                shutil.copyfile(path, work.target / path.name)
        del model, together, merged
        logits = _logits(_load(work.target, self.trust_remote_code), tokens)
        difference = (logits - expected).abs().max() / expected.abs().max()
        if not difference <= TOLERANCE:
            raise RefusedError(
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
    """Refuse weights that would have been left aside, and gaps that would have been filled.

    Raises:
        RefusedError: the adapter has such.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    given = set(load_peft_weights(str(adapter), device="cpu"))
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    foreign = sorted(given - wanted - set(model.state_dict()))
    if foreign:
        raise RefusedError(
            "the adapter has weights for what the model does not have: " + ", ".join(foreign[:3])
        )
    missing = sorted(wanted - given)
    if missing:
        raise RefusedError(f"the adapter is incomplete: {', '.join(missing[:3])} missing")
