"""Tiny random embedding models in folders as sentence-transformers writes them, with tokenizers of
bytes that are built as those of the real ones."""

import json
from pathlib import Path
from typing import Any

from packager.models.catalog import DECODERS, ENCODERS

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
OTHERS: dict[str, dict[str, Any]] = {
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "Gemma3Text": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 16,
        "use_bidirectional_attention": True,
    },
    "ModernBert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}
"""Sizes with names of their own."""

MODES = (
    "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
    "lasttoken",
)  # fmt: skip


def make(
    folder: Path,
    architecture: str = "BertModel",
    *,
    pooling: str = "mean_tokens",
    dense: tuple[tuple[int, str], ...] = (),
    normalize: bool = True,
    max_seq_length: int | None = 50,
    **config: Any,
) -> Path:
    """Write a model; returns its folder.

    Args:
        folder: the folder.
        architecture: one of `ENCODERS` or `DECODERS`.
        pooling: end of the key of sentence-transformers' mode.
        dense: width and activation of each dense layer; with the first one comes a bias.
        normalize: scale vectors to length 1.
        max_seq_length: longest text, tokens; None for the model's own.
        config: fields of the configuration.
    """
    import torch
    import transformers

    assert architecture in (*ENCODERS, *DECODERS)
    kind = architecture
    for end in ("Model", "ForMaskedLM", "ForCausalLM"):
        kind = kind.removesuffix(end)
    tokenizer = {"Gemma3Text": _gemma, "Qwen2": _qwen, "Qwen3": _qwen}.get(kind, _bert)()
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES | OTHERS.get(kind, {}) | config,
    )
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / 4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
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
    write(
        folder, "1_Pooling/config.json", {f"pooling_mode_{mode}": mode == pooling for mode in MODES}
    )
    _write_dense(folder, dense)
    if max_seq_length is not None:
        write(folder, "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    return folder


def _write_dense(folder: Path, dense: tuple[tuple[int, str], ...]) -> None:
    import torch
    from safetensors.torch import save_file

    width = SIZES["hidden_size"]
    for number, (out, activation) in enumerate(dense):
        path = f"{number + 2}_Dense"
        content = {
            "in_features": width,
            "out_features": out,
            "bias": not number,
            "activation_function": f"torch.nn.modules.{activation}",
        }
        write(folder, f"{path}/config.json", content)
        tensors = {"linear.weight": torch.randn(out, width) / 8}
        if not number:
            tensors["linear.bias"] = torch.randn(out) / 8
        save_file(tensors, folder / path / "model.safetensors")
        width = out


def _bert() -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)  # as publishers leave it in the file
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _qwen() -> Any:
    """Make the tokenizer of Qwen3 Embedding: it ends a text with its padding token."""
    import transformers
    from tokenizers import pre_tokenizers, processors

    vocabulary = {byte: n for n, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    end = "<|endoftext|>"
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], pad_token=end, eos_token="<|im_end|>", padding_side="left"
    )
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single=f"$A {end}", special_tokens=[(end, tokenizer.pad_token_id)]
            ),
        ]
    )
    return tokenizer


def _gemma() -> Any:
    """Make the tokenizer of EmbeddingGemma: it puts a token before and one behind a text."""
    import transformers
    from tokenizers import processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "e"]
    tokenizer = transformers.GemmaTokenizer(vocab={t: n for n, t in enumerate(tokens)}, merges=[])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer


def write(folder: Path, name: str, content: Any) -> None:
    """Write a JSON file of a model."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def change(folder: Path, name: str, **changes: Any) -> None:
    """Change fields of a JSON file of a model."""
    write(folder, name, json.loads((folder / name).read_text()) | changes)
