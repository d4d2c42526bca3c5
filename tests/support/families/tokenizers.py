"""The tokenizers of the families, as data: their special tokens and the rest of their files."""

from dataclasses import replace

from tests.support.families.tokenizer_files import (
    O200K_SPLIT,
    QWEN3_5_SPLIT,
    QWEN_SPLIT,
    TEKKEN_SPLIT,
    TokenizerSpec,
)

PHI = TokenizerSpec(
    kind="gpt2",
    markup=("<|endoftext|>",),
    config={
        "tokenizer_class": "CodeGenTokenizer",
        "add_prefix_space": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
)

LLAMA2 = TokenizerSpec(
    kind="prefix",
    first=("<unk>", "<s>", "</s>"),
    bos="<s>",
    config={
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
    },
)
MISTRAL = replace(LLAMA2, first=(*LLAMA2.first, "[INST]", "[/INST]"))
PHI3 = replace(
    LLAMA2,
    markup=("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    rstrip=True,
    config={**LLAMA2.config, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
)
PHI3_5 = replace(PHI3, bos=None, config={**PHI3.config, "add_bos_token": False})

LLAMA3 = TokenizerSpec(
    kind="split",
    markup=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    bos="<|begin_of_text|>",
    config={
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": True,
    },
)
SMOLLM3 = replace(
    LLAMA3,
    markup=("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
    bos=None,
    config={
        **LLAMA3.config,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
    },
)

GEMMA = TokenizerSpec(
    kind="gemma",
    first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    markup=("<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    config={
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
    },
)

QWEN2 = TokenizerSpec(
    kind="split",
    markup=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    pattern=QWEN_SPLIT,
    nfc=True,
    config={
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
    },
)
QWEN3 = replace(QWEN2, markup=(*QWEN2.markup, "<think>", "</think>"))
QWEN3_5 = replace(QWEN3, pattern=QWEN3_5_SPLIT)

GEMMA4 = replace(
    GEMMA,
    markup=("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"),
    config={**GEMMA.config, "eos_token": "<turn|>"},
)

MINISTRAL3 = TokenizerSpec(
    kind="split",
    first=(
        *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        *("[THINK]", "[/THINK]", "<pad>"),
    ),
    pattern=TEKKEN_SPLIT,
    bos="<s>",
    config={
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
)

LFM2 = replace(
    LLAMA3,
    markup=("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos="<|startoftext|>",
    config={
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
    },
)

PHI4 = TokenizerSpec(
    kind="split",
    markup=(
        *("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        *("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>"),
    ),
    pattern=O200K_SPLIT,
    config={
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
)
