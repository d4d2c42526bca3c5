"""Variants of the families, and what else the model builder takes."""

from dataclasses import replace
from typing import Any

from tests.support.families import WINDOW, Family
from tests.support.families.models import FAMILIES


def _variant(name: str, family: str, **config: Any) -> Family:
    base = FAMILIES[family]
    # A window other than the family's comes into play within the shortest prompt.
    lengths = base.prompt_tokens[:1] if "sliding_window" in config else base.prompt_tokens
    merged = {**base.config, **config}
    return replace(base, name=name, config=merged, prompt_tokens=lengths)


VARIANTS = {
    variant.name: variant
    for variant in (
        _variant(
            "Llama, positions scaled",
            "Llama 2",
            rope_scaling={"rope_type": "linear", "factor": 4.0},
        ),
        _variant(
            "Llama, positions scaled when long",
            "Llama 2",
            rope_scaling={"rope_type": "dynamic", "factor": 4.0},
        ),
        _variant("Llama, with biases", "Llama 2", attention_bias=True, mlp_bias=True),
        _variant("Phi-3, short window", "Phi-3", sliding_window=WINDOW),
        _variant("Mistral, short window", "Mistral", sliding_window=WINDOW),
        _variant("Gemma 2, short window", "Gemma 2", sliding_window=WINDOW),
        _variant("Gemma 3, short window", "Gemma 3", sliding_window=WINDOW),
        _variant("Mistral, no window", "Mistral", sliding_window=None, head_dim=32),
        _variant(
            "Gemma 3, global positions scaled",
            "Gemma 3",
            hidden_size=64,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
        _variant(
            "Qwen2, YaRN",
            "Qwen2",
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        _variant(
            "Qwen2, window in some layers", "Qwen2", use_sliding_window=True, max_window_layers=1
        ),
        _variant(
            "Qwen3, untied, with biases", "Qwen3", tie_word_embeddings=False, attention_bias=True
        ),
        _variant(
            "SmolLM3, YaRN",
            "SmolLM3",
            rope_scaling={
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 256,
            },
        ),
    )
}
"""Models of the families that differ in something that the builder must see."""


def _other(name: str, architecture: str, model_type: str, **config: Any) -> Family:
    return replace(
        FAMILIES["Qwen3"],
        name=name,
        special="",
        architecture=architecture,
        model_type=model_type,
        config={"rope_theta": 10000.0, **config},
        template=None,
    )


_GRANITE = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.1,
}
OTHERS = {
    other.name: other
    for other in (
        _other("Ernie 4.5", "Ernie4_5ForCausalLM", "ernie4_5", head_dim=16, use_bias=False),
        _other("Granite", "GraniteForCausalLM", "granite", **_GRANITE),
        _other(
            "Granite 4, dense",
            "GraniteMoeHybridForCausalLM",
            "granitemoehybrid",
            **_GRANITE,
            shared_intermediate_size=128,
            num_local_experts=0,
            num_experts_per_tok=0,
            layer_types=["attention", "attention"],
            position_embedding_type="rope",
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_expand=2,
        ),
        _other(
            "HunYuan",
            "HunYuanDenseV1ForCausalLM",
            "hunyuan_v1_dense",
            head_dim=16,
            rope_scaling={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        ),
        _other(
            "Nemotron",
            "NemotronForCausalLM",
            "nemotron",
            head_dim=32,
            partial_rotary_factor=0.5,
            hidden_act="relu2",
            norm_eps=1e-5,
        ),
        _other("OLMo", "OlmoForCausalLM", "olmo", clip_qkv=None),
        _other(
            "LFM2",
            "Lfm2ForCausalLM",
            "lfm2",
            layer_types=["conv", "full_attention"],
            block_ff_dim=128,
            block_auto_adjust_ff_dim=False,
            conv_L_cache=3,
            norm_eps=1e-5,
        ),
        _other(
            "LFM2, experts",
            "Lfm2MoeForCausalLM",
            "lfm2_moe",
            layer_types=["conv", "full_attention"],
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            num_dense_layers=1,
            conv_L_cache=3,
            norm_eps=1e-5,
        ),
    )
}
"""What else the model builder takes and can be made here, with a tokenizer of another family."""
