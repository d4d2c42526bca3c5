"""Tiny random embedding models with a byte-level tokenizer, in folders as sentence-transformers
writes them."""

import json
from pathlib import Path
from typing import Any

from packager.models.catalog import ENCODERS

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
OTHERS: dict[str, dict[str, Any]] = {
    "DistilBertModel": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "ModernBertModel": {"local_attention": 8, "global_attn_every_n_layers": 2},
}
"""Sizes with names of their own."""


def make(
    folder: Path,
    architecture: str = "BertModel",
    *,
    pooling: str = "mean_tokens",
    normalize: bool = True,
    max_seq_length: int | None = 50,
) -> Path:
    """Write a model; returns its folder.

    Args:
        folder: the folder.
        architecture: one of `ENCODERS`.
        pooling: end of the key of sentence-transformers' mode.
        normalize: scale vectors to length 1.
        max_seq_length: longest text, tokens; None for the model's own.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    assert architecture in ENCODERS
    special = ["[PAD]", "[CLS]", "[SEP]"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)  # as publishers leave it in the file
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    kind = architecture.removesuffix("Model").removesuffix("ForMaskedLM")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(vocabulary),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES,
        **OTHERS.get(architecture, {}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / 4)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    write(folder, "modules.json", modules)
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    write(
        folder, "1_Pooling/config.json", {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    )
    if max_seq_length is not None:
        write(folder, "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    """Write a JSON file of a model."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def change(folder: Path, name: str, **changes: Any) -> None:
    """Change fields of a JSON file of a model."""
    write(folder, name, json.loads((folder / name).read_text()) | changes)
