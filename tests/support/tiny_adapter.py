"""LoRA adapters for the tiny model, with random weights: large enough to change what it says."""

import warnings
from pathlib import Path
from typing import Any


def make(base: Path, folder: Path, **options: Any) -> Path:
    """Write a PEFT adapter for a Hugging Face folder; options are those of LoraConfig."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some of what the tests ask for is unwise
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(settings | options)))
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    weight.add_(torch.randn_like(weight) * 0.5)
        tuned.save_pretrained(folder)
    return folder
