"""The families of models, as data: their configurations, with their tokenizers and templates."""

from dataclasses import replace

from tests.support.families import GEMMA_CONFIG, SWITCH, WINDOW, Family, templates, tokenizers
from tests.support.families.text_models import TEXT_MODELS

_PHI = Family(
    "Phi",
    "PhiForCausalLM",
    "phi",
    special="partial rotary embeddings, biases, attention and MLP side by side",
    examples="phi-1.5, phi-2",
    config={
        "hidden_size": 160,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
    },
    tokenizer=tokenizers.PHI,
    template=None,
)

_PHI3 = Family(
    "Phi-3",
    "Phi3ForCausalLM",
    "phi3",
    special="a window in every layer, joined projections",
    examples="Phi-3-mini-4k-instruct",
    config={
        "num_key_value_heads": 4,
        "max_position_embeddings": SWITCH,
        "original_max_position_embeddings": SWITCH,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "sliding_window": 2047,
    },
    tokenizer=tokenizers.PHI3,
    template=templates.PHI3,
    prompt_tokens=(40, 2047 - 16, 2047 + 40),
)
_PHI3_5 = replace(
    _PHI3,
    name="Phi-3.5",
    special="LongRoPE: before, across and after its switch at 4,096 tokens",
    examples="Phi-3.5-mini-instruct, Phi-3-mini-128k-instruct",
    config={
        **_PHI3.config,
        "max_position_embeddings": 32 * SWITCH,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + 0.15 * index for index in range(8)],
            "long_factor": [1.1 + 7.5 * index for index in range(8)],
        },
        "sliding_window": 64 * SWITCH,
        "attention_bias": False,
    },
    tokenizer=tokenizers.PHI3_5,
    # Before the switch, across it, and after it from the start.
    prompt_tokens=(40, SWITCH - 16, SWITCH + 4),
)

_PHI4 = replace(
    _PHI3_5,
    name="Phi-4-mini",
    special="as Phi-3.5; a part of each head is rotated, tied embeddings",
    examples="Phi-4-mini-instruct",
    config={
        **_PHI3_5.config,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
    },
    tokenizer=tokenizers.PHI4,
    template=templates.PHI4,
)

_LLAMA2 = Family(
    "Llama 2",
    "LlamaForCausalLM",
    "llama",
    special="SentencePiece-like tokenizer",
    examples="Llama-2-7b-chat, TinyLlama",
    config={"num_key_value_heads": 4, "rms_norm_eps": 1e-5},
    tokenizer=tokenizers.LLAMA2,
    template=templates.LLAMA2,
)
_LLAMA3 = replace(
    _LLAMA2,
    name="Llama 3",
    special="rotary frequencies scaled by parts, tied embeddings",
    examples="Llama-3.1-8B-Instruct, Llama-3.2-1B-Instruct",
    config={
        "head_dim": 16,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
        },
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    tokenizer=tokenizers.LLAMA3,
    template=templates.LLAMA3,
)

_MISTRAL = Family(
    "Mistral",
    "MistralForCausalLM",
    "mistral",
    special="a window in every layer",
    examples="Mistral-7B-Instruct",
    config={
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
    },
    tokenizer=tokenizers.MISTRAL,
    template=templates.MISTRAL,
    prompt_tokens=(40, 4096 + 40),
)

_GEMMA = Family(
    "Gemma",
    "GemmaForCausalLM",
    "gemma",
    special="norms of 1 + weight, scaled embeddings, heads wider than the hidden size",
    examples="gemma-2b-it",
    config={**GEMMA_CONFIG, "hidden_act": "gelu"},
    tokenizer=tokenizers.GEMMA,
    template=templates.GEMMA,
    system=False,
)
_GEMMA2 = Family(
    "Gemma 2",
    "Gemma2ForCausalLM",
    "gemma2",
    special="soft caps, windows in every other layer, four norms a layer",
    examples="gemma-2-2b-it",
    config={
        **GEMMA_CONFIG,
        "num_hidden_layers": 4,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 24,
    },
    tokenizer=tokenizers.GEMMA,
    template=templates.GEMMA,
    system=False,
    prompt_tokens=(40, 4096 - 16),
)
_GEMMA3 = Family(
    "Gemma 3",
    "Gemma3ForCausalLM",
    "gemma3_text",
    special="norms of queries and keys, rotary bases of their own for local layers",
    examples="gemma-3-1b-it, gemma-3-270m-it",
    config={
        **GEMMA_CONFIG,
        "num_hidden_layers": 4,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    tokenizer=tokenizers.GEMMA,
    template=templates.GEMMA3,
    prompt_tokens=(40, 512 - 16, 512 + 40),
)

_QWEN2 = Family(
    "Qwen2",
    "Qwen2ForCausalLM",
    "qwen2",
    special="biases of queries, keys and values",
    examples="Qwen2.5-0.5B-Instruct",
    config={
        "rope_theta": 1000000.0,
        "max_window_layers": 2,
        "sliding_window": WINDOW,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
    tokenizer=tokenizers.QWEN2,
    template=templates.CHATML,
)
_QWEN3 = Family(
    "Qwen3",
    "Qwen3ForCausalLM",
    "qwen3",
    special="norms of queries and keys",
    examples="Qwen3-0.6B, Qwen3-4B",
    config={
        **_QWEN2.config,
        "head_dim": 32,
        "attention_bias": False,
        "sliding_window": None,
    },
    tokenizer=tokenizers.QWEN3,
    template=templates.QWEN3,
)

_SMOLLM3 = Family(
    "SmolLM3",
    "SmolLM3ForCausalLM",
    "smollm3",
    special="layers without positions",
    examples="SmolLM3-3B",
    config={
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 0, 1],
        "no_rope_layer_interval": 4,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
    tokenizer=tokenizers.SMOLLM3,
    template=templates.SMOLLM3,
)

FAMILIES = {
    family.name: family
    for family in (
        _PHI,
        _PHI3,
        _PHI3_5,
        _PHI4,
        _LLAMA2,
        _LLAMA3,
        _MISTRAL,
        _GEMMA,
        _GEMMA2,
        _GEMMA3,
        _QWEN2,
        _QWEN3,
        _SMOLLM3,
        *TEXT_MODELS,
    )
}
