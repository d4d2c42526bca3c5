"""Tokenizers from GGUF files, completed with what the files do not say.

A GGUF file has a vocabulary and a name for the way in which texts are cut (`tokenizer.ggml.pre`).
transformers reads both, but not what else belongs to that way in the tokenizer.json of the model's
family. The names are those of llama.cpp (src/llama-vocab.cpp).
"""

import json
from pathlib import Path
from typing import Any

BYTE_LEVEL, SENTENCE_PIECE = "gpt2", "llama"
"""Kinds of vocabularies (`tokenizer.ggml.model`)."""

_NFC = frozenset({"qwen2", "qwen35", "deepseek-r1-qwen"})
_LLAMA3 = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
)
_WITH_EXPRESSION = (
    _NFC
    | _LLAMA3
    | {
        "dbrx",
        "smaug-bpe",
        "tekken",
        "kormo",
        "megrez",
        "gpt-4o",
        "llama4",
        "kanana2",
        "minimax-m2",
    }
)
"""Ways whose expression transformers 5.23 has (`GGUF_PRE_TOKENIZER_SPLITS`)."""
_WHOLE_WORDS = _LLAMA3 | {"tekken", "gpt-4o"}
"""Ways in which a word that is a token is not put together from parts."""
_SINGLE_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
_AS_GPT2 = frozenset({"gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "gigachat"})


def is_known(kind: str, cut: str) -> bool:
    """Return whether texts are cut as in the model's family.

    Args:
        kind: `tokenizer.ggml.model` of the file.
        cut: `tokenizer.ggml.pre`; empty if the file has none.
    """
    return kind != BYTE_LEVEL or cut in _WITH_EXPRESSION | _SINGLE_DIGITS | _AS_GPT2


def begins_with_bos(cut: str) -> bool:
    """Return whether plain text begins with the BOS token in a file that does not say so."""
    return cut in _LLAMA3


def complete(folder: Path, *, architecture: str, kind: str, cut: str) -> None:
    """Complete the tokenizer.json that transformers made of a file.

    Args:
        folder: has the tokenizer.json.
        architecture: `general.architecture` of the file.
        kind: `tokenizer.ggml.model`.
        cut: `tokenizer.ggml.pre`; empty if the file has none.
    """
    path = folder / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if kind == BYTE_LEVEL:
        # The class that transformers takes for all of them adds a token of GPT-2's.
        vocabulary = tokenizer["model"]["vocab"]
        added = tokenizer["added_tokens"]
        tokenizer["added_tokens"] = [token for token in added if token["content"] in vocabulary]
        if cut in _NFC:
            tokenizer["normalizer"] = {"type": "NFC"}
        if cut in _WHOLE_WORDS:
            tokenizer["model"]["ignore_merges"] = True
        if cut in _SINGLE_DIGITS:
            words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
            tokenizer["pre_tokenizer"] = {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {**words, "use_regex": True},
                ],
            }
    elif kind == SENTENCE_PIECE and architecture == "phi3":
        # The markup of Phi-3 and Phi-3.5 swallows the white space after it.
        for token in tokenizer["added_tokens"]:
            token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
