"""Decode the quantized weights of a Hugging Face folder. A job because it holds all of them."""

import shutil
from pathlib import Path

import msgspec

from packager.jobs.compare_tensors import Tensors, tensors
from packager.jobs.job import Job, Work
from packager.weights import checkpoint


class DecodeWeights(Job[Tensors], frozen=True, kw_only=True):
    """Write the folder with plain weights (bf16, which transformers decodes to) to the target.

    If tensors are missing, the target stays empty.

    Attributes:
        source: Hugging Face folder with quantized weights.
        copied: files to copy unchanged: tokenizer, chat template, model card.
        trust_remote_code: run Python code that comes with the model.
    """

    source: Path
    copied: tuple[Path, ...]
    trust_remote_code: bool

    def run(self, work: Work) -> Tensors:
        """Decode the weights."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self.source, trust_remote_code=self.trust_remote_code)
        # Without it, kernels for the stored weights would be used where there are some.
        config.quantization_config["dequantize"] = True
        model, info = AutoModelForCausalLM.from_pretrained(
            self.source,
            config=config,
            dtype=torch.bfloat16,
            device_map="cpu",
            output_loading_info=True,
            trust_remote_code=self.trust_remote_code,
        )
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        own = head is not None and head.weight is not embedding.weight
        tied = getattr(model.config, "tie_word_embeddings", False)
        compared = msgspec.structs.replace(tensors(info), untied=tied and own)
        if compared.missing:
            return compared
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        # In its original format, the model would be quantized again.
        model.save_pretrained(work.target, save_original_format=False)
        for path in self.copied:
            target = checkpoint.place(path, self.source, work.target)
            if not target.exists():
                shutil.copyfile(path, target)
        return compared
