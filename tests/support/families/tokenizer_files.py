"""Small tokenizers in the manner of the model families: trained here, files as models have them.

Four kinds are enough: byte-level BPE as OpenAI's tokenizers (Phi-2), the same with a splitting
expression (Llama 3, Qwen, SmolLM3), and byte-fallback BPE as SentencePiece makes it, with a space
put before the text (Llama 2, Mistral, Phi-3) or without (Gemma).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["gpt2", "split", "prefix", "gemma"]

MERGES = 200
"""Tokens of a vocabulary beyond the bytes: enough that words of several tokens occur."""

TEXT = """
The quick brown fox jumps over the lazy dog, and then it rests under the old tree near the river.
What is the capital of France? The capital of France is Paris, and it lies on the river Seine.
Write a function that returns the sum of two numbers: def add(a, b): return a + b
Die Straße führt über den Fluß; größere Häuser stehen am anderen Ufer. Wie heißt du? Ich heiße Jörg.
¿Dónde está la estación? El tren sale a las 12:45 y llega mañana. Ça va très bien, merci, garçon.
Привет, как дела? Сегодня хорошая погода, и мы идём гулять в парк.
今日はとても良い天気です。今日は公園に行きます。你好,世界!今天天气很好,我们去公园。
Numbers: 0 1 2 3 10 42 100 1999 2024 3.14159 and 1,000,000. {"name": "value", "list": [1, 2, 3]}
"""

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN3_5_SPLIT = QWEN_SPLIT.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_SPLIT = rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}{_REST}"
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_SPLIT = rf"{_UPPER}*{_LOWER}+{_SHORT}|{_UPPER}+{_LOWER}*{_SHORT}|\p{{N}}{{1,3}}{_REST}"


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """A tokenizer to train, and what its files say.

    Attributes:
        kind: which of the four.
        first: tokens with the lowest ids (`<unk>`, `<s>`, ...).
        markup: tokens of the chat, with the highest ids.
        bos: token that the tokenizer itself puts before a text; None for none.
        pattern: of the kind `split`.
        nfc: of the kind `split`: normalize to NFC.
        rstrip: markup tokens swallow the white space after them, as those of Phi-3 do.
        config: tokenizer_config.json without the markup: class and special tokens.
    """

    kind: Kind
    first: tuple[str, ...] = ()
    markup: tuple[str, ...] = ()
    bos: str | None = None
    pattern: str = LLAMA3_SPLIT
    nfc: bool = False
    rstrip: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def write(spec: TokenizerSpec, folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Train a tokenizer and write its files.

    Args:
        spec: the tokenizer.
        folder: Hugging Face folder.
        config: tokenizer_config.json, without the markup.

    Returns:
        The vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer, models, processors

    vocabulary, merges = _train(spec)
    byte_fallback = spec.kind in ("prefix", "gemma")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            byte_fallback=byte_fallback,
            fuse_unk=byte_fallback,
            unk_token="<unk>" if byte_fallback else None,
            ignore_merges=spec.kind == "split",
        )
    )
    _make_pipeline(tokenizer, spec)
    if spec.bos is not None:
        bos = spec.bos
        # The markup comes after the vocabulary.
        number = [*vocabulary, *spec.markup].index(bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, number)]
        )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in spec.first]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, rstrip=spec.rstrip)
            for token in spec.markup
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in tokenizer.get_added_tokens_decoder().items()
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": added, **config}, indent=2, ensure_ascii=False)
    )
    return dict(tokenizer.get_vocab())


def _train(spec: TokenizerSpec) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges; the first tokens, then all bytes, then what was learned."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    if spec.kind in ("prefix", "gemma"):
        basic = [f"<0x{number:02X}>" for number in range(256)]
        learner.normalizer = normalizers.Replace(" ", "▁")
        learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        alphabet = []
    else:
        basic = sorted(pre_tokenizers.ByteLevel.alphabet())
        alphabet = basic
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, show_progress=False, limit_alphabet=300
    )
    learner.train_from_iterator(TEXT.strip().split("\n"), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [(left, right) for left, right in learned["merges"][:MERGES]]
    alone = [token for token in learned["vocab"] if len(token) == 1]
    tokens = [*spec.first, *basic, *alone, *(left + right for left, right in merges)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _make_pipeline(tokenizer: Any, spec: TokenizerSpec) -> None:
    """Set what happens to a text before and after the model, as the files of real models say it."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    if spec.kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif spec.kind == "split":
        if spec.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(spec.pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
    else:
        space = normalizers.Replace(" ", "▁")
        steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if spec.kind == "prefix":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
            steps.append(decoders.Strip(" ", 1, 0))
        else:
            tokenizer.normalizer = space
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence(steps)
