"""Tiny random Whisper models: real files with the tokens of the real ones in their order, built in
seconds. They write nonsense down, another for another sound."""

import json
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh", "de", "es", "ru", "fr", "yue")
WORDS = (" the", " and", " of", " to", " a", " is", " in", " that")
"""Texts that are one token each, besides all single bytes."""

CONTEXT = 448
"""Longest text of a window and what precedes it, tokens."""


def make(
    folder: Path,
    *,
    english: bool = False,
    mels: int = 80,
    seed: int = 0,
    sure: float = 1.0,
    **config: Any,
) -> Path:
    """Write a model as transformers does; returns its folder.

    Args:
        folder: the folder.
        english: a model of English alone: without languages to choose from, and without tasks.
        mels: bands of its spectrograms.
        seed: seed of the random weights.
        sure: factor for all logits.
        config: fields of the configuration.
    """
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    tokenizer = _tokenizer()
    ids = tokenizer.get_vocab()
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(ids),
        "num_mel_bins": mels,
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 128,
        "max_target_positions": CONTEXT,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }
    model = WhisperForConditionalGeneration(WhisperConfig(**settings | config))
    _fill(model, ids, sure)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    _write_generation_config(folder, ids, english=english)
    return folder


def _fill(model: Any, ids: dict[str, int], sure: float) -> None:
    """Give a model random weights with which each sound, and each token, shapes what follows."""
    import torch

    decoder = model.model.decoder
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and name != "model.encoder.embed_positions.weight":
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
            elif name.endswith("v_proj.bias"):
                # The builder leaves out a bias of zeros, and without one ONNX Runtime's Attention
                # ends the process.
                weight.fill_(0.01)
        model.model.encoder.conv1.weight *= 12
        decoder.embed_positions.weight *= 8
        for layer in decoder.layers:
            layer.encoder_attn.q_proj.weight *= 16
            layer.encoder_attn.out_proj.weight *= 2
            layer.self_attn.out_proj.weight *= 3
            layer.fc2.weight *= 5
        # Embeddings and head are one matrix. Times are less likely than letters, one by one; all
        # other tokens, half bytes of UTF-8 among them, hardly ever win.
        tokens = decoder.embed_tokens.weight
        times = slice(ids["<|0.00|>"], None)
        rare = torch.ones(len(ids), dtype=torch.bool)
        rare[times] = rare[ids["<|endoftext|>"]] = False
        rare[
            [
                n
                for token, n in ids.items()
                if token[:1] == "\u0120" or (token.isalpha() and token.isascii())
            ]
        ] = False
        tokens[rare] *= 0.2
        tokens[times] *= 0.45
        decoder.layer_norm.weight *= 4 * sure
        decoder.layer_norm.bias += 8 * sure * tokens[ids["<|endoftext|>"]]


def _tokenizer() -> Any:
    """Make the tokenizer of Whisper with fewer words and languages."""
    import transformers
    from tokenizers import AddedToken, pre_tokenizers

    vocabulary = {byte: n for n, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        text = word.replace(" ", "\u0120")
        for end in range(2, len(text) + 1):
            if text[:end] not in vocabulary:
                vocabulary[text[:end]] = len(vocabulary)
                merges.append((text[: end - 1], text[end - 1]))
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = transformers.WhisperTokenizer(
        vocab=vocabulary, merges=merges, pad_token="<|endoftext|>"
    )
    special = (
        "startoftranscript",
        *LANGUAGES,
        *("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in special]})
    # As in the files of the publisher, times are not special.
    tokenizer.add_tokens(
        [AddedToken(f"<|{time / 50:.2f}|>", normalized=False) for time in range(1501)]
    )
    return tokenizer


def _write_generation_config(folder: Path, ids: dict[str, int], *, english: bool) -> None:
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    marks = [ids[f"<|{name}|>"] for name in ("startoflm", "startofprev", "nospeech")]
    settings = {
        "begin_suppress_tokens": [ids["\u0120"], end],
        "bos_token_id": end,
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "is_multilingual": not english,
        "max_initial_timestamp_index": 50,
        "max_length": CONTEXT,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "pad_token_id": end,
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": sorted(
            [*(ids[symbol] for symbol in '"#()*+/:;<=>@[\\]^_`{|}~'), start, *marks]
        ),
        "transformers_version": "5.0.0",
    }
    if not english:
        settings["lang_to_id"] = {f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES}
        settings["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=2))
