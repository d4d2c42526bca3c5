"""Tiny random models of every family that edgepack promises, each with a tokenizer of its kind.

The configurations are those of the real models, scaled down. What makes a family special stays, and
comes into play within the few tokens of a test: windows, soft caps, norms of queries and keys,
layers without positions, two sets of rotary factors.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests import family_templates as templates
from tests import family_tokenizers as tokenizers

WINDOW = 16
SWITCH = 4096
"""Where Phi-3.5 goes from its short to its long rotary factors. ONNX Runtime GenAI has this number
built in, so it is not scaled down."""

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        name: for people.
        special: what of it must come out right.
        examples: models of it.
        architecture: as config.json names it.
        model_type: likewise.
        config: what differs from `SMALL`.
        tokenizer: arguments of `family_tokenizers.make`.
        specials: tokenizer_config.json: class and special tokens.
        template: chat template; None for a model that knows no chat.
        system: whether the template takes a system message.
        prompt_tokens: lengths of the prompts of the greedy test.
    """

    name: str
    special: str
    examples: str
    architecture: str
    model_type: str
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    specials: dict[str, Any]
    template: str | None
    system: bool = True
    prompt_tokens: tuple[int, ...] = (40,)


_SENTENCEPIECE = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "legacy": False,
}
_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_GEMMA_TOKENIZER = {
    "kind": "gemma",
    "first": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
    "markup": ["<start_of_turn>", "<end_of_turn>"],
    "bos": "<bos>",
}
_GEMMA_SPECIALS = {
    "tokenizer_class": "GemmaTokenizer",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "add_bos_token": True,
    "add_eos_token": False,
}
_GEMMA = {
    # No square number: the embedding is scaled by its root.
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "head_dim": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 1,
}
_LLAMA3_MARKUP = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "<|eot_id|>",
]

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="Phi",
            special="partial rotary embeddings, biases, attention and MLP side by side",
            examples="phi-1.5, phi-2",
            architecture="PhiForCausalLM",
            model_type="phi",
            config={
                "hidden_size": 160,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "hidden_act": "gelu_new",
                "layer_norm_eps": 1e-5,
                "partial_rotary_factor": 0.4,
                "qk_layernorm": False,
                "tie_word_embeddings": False,
            },
            tokenizer={
                "kind": "gpt2",
                "first": [],
                "markup": ["<|endoftext|>"],
                "bos": None,
            },
            specials={
                "tokenizer_class": "CodeGenTokenizer",
                "add_prefix_space": False,
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
            },
            template=None,
        ),
        Family(
            name="Phi-3",
            special="a window in every layer, joined projections",
            examples="Phi-3-mini-4k-instruct",
            architecture="Phi3ForCausalLM",
            model_type="phi3",
            config={
                "num_key_value_heads": 4,
                "max_position_embeddings": SWITCH,
                "original_max_position_embeddings": SWITCH,
                "rms_norm_eps": 1e-5,
                "rope_scaling": None,
                "sliding_window": WINDOW,
                "tie_word_embeddings": False,
            },
            tokenizer={
                "kind": "prefix",
                "first": ["<unk>", "<s>", "</s>"],
                "markup": ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
                "bos": "<s>",
                "rstrip": True,
            },
            specials={**_SENTENCEPIECE, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
            template=templates.PHI3,
        ),
        Family(
            name="Phi-3.5",
            special="LongRoPE: before, across and after its switch at 4,096 tokens",
            # Before the switch, across it, and after it from the start.
            prompt_tokens=(40, SWITCH - 16, SWITCH + 4),
            examples="Phi-3.5-mini-instruct, Phi-3-mini-128k-instruct",
            architecture="Phi3ForCausalLM",
            model_type="phi3",
            config={
                "num_key_value_heads": 4,
                "max_position_embeddings": 32 * SWITCH,
                "original_max_position_embeddings": SWITCH,
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0 + 0.15 * index for index in range(8)],
                    "long_factor": [1.1 + 7.5 * index for index in range(8)],
                },
                "sliding_window": 64 * SWITCH,
                "attention_bias": False,
                "tie_word_embeddings": False,
            },
            tokenizer={
                "kind": "prefix",
                "first": ["<unk>", "<s>", "</s>"],
                "markup": ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
                "bos": None,
                "rstrip": True,
            },
            specials={
                **_SENTENCEPIECE,
                "add_bos_token": False,
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
            },
            template=templates.PHI3,
        ),
        Family(
            name="Llama 2",
            special="SentencePiece-like tokenizer",
            examples="Llama-2-7b-chat, TinyLlama",
            architecture="LlamaForCausalLM",
            model_type="llama",
            config={"num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
            tokenizer={
                "kind": "prefix",
                "first": ["<unk>", "<s>", "</s>"],
                "markup": [],
                "bos": "<s>",
            },
            specials=_SENTENCEPIECE,
            template=templates.LLAMA2,
        ),
        Family(
            name="Llama 3",
            special="rotary frequencies scaled by parts, tied embeddings",
            examples="Llama-3.1-8B-Instruct, Llama-3.2-1B-Instruct",
            architecture="LlamaForCausalLM",
            model_type="llama",
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
            tokenizer={
                "kind": "split",
                "first": [],
                "markup": _LLAMA3_MARKUP,
                "bos": "<|begin_of_text|>",
            },
            specials={
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "clean_up_tokenization_spaces": True,
            },
            template=templates.LLAMA3,
        ),
        Family(
            name="Mistral",
            special="a window in every layer",
            examples="Mistral-7B-Instruct",
            architecture="MistralForCausalLM",
            model_type="mistral",
            config={
                "sliding_window": WINDOW,
                "rope_theta": 10000.0,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": False,
            },
            tokenizer={
                "kind": "prefix",
                "first": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
                "markup": [],
                "bos": "<s>",
            },
            specials=_SENTENCEPIECE,
            template=templates.MISTRAL,
        ),
        Family(
            name="Gemma",
            special="norms of 1 + weight, scaled embeddings, heads wider than the hidden size",
            examples="gemma-2b-it",
            architecture="GemmaForCausalLM",
            model_type="gemma",
            config={**_GEMMA, "rope_theta": 10000.0, "hidden_act": "gelu"},
            tokenizer=_GEMMA_TOKENIZER,
            specials=_GEMMA_SPECIALS,
            template=templates.GEMMA,
            system=False,
        ),
        Family(
            name="Gemma 2",
            special="soft caps, windows in every other layer, four norms a layer",
            examples="gemma-2-2b-it",
            architecture="Gemma2ForCausalLM",
            model_type="gemma2",
            config={
                **_GEMMA,
                "num_hidden_layers": 4,
                "sliding_window": WINDOW,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "query_pre_attn_scalar": 24,
                "rope_theta": 10000.0,
            },
            tokenizer=_GEMMA_TOKENIZER,
            specials=_GEMMA_SPECIALS,
            template=templates.GEMMA,
            system=False,
        ),
        Family(
            name="Gemma 3",
            special="norms of queries and keys, rotary bases of their own for local layers",
            examples="gemma-3-1b-it, gemma-3-270m-it",
            architecture="Gemma3ForCausalLM",
            model_type="gemma3_text",
            config={
                **_GEMMA,
                "num_hidden_layers": 4,
                "sliding_window": WINDOW,
                "sliding_window_pattern": 2,
                "query_pre_attn_scalar": 24,
                "rope_theta": 1000000.0,
                "rope_local_base_freq": 10000.0,
                "attn_logit_softcapping": None,
                "final_logit_softcapping": None,
            },
            tokenizer=_GEMMA_TOKENIZER,
            specials=_GEMMA_SPECIALS,
            template=templates.GEMMA3,
        ),
        Family(
            name="Qwen2",
            special="biases of queries, keys and values",
            examples="Qwen2.5-0.5B-Instruct",
            architecture="Qwen2ForCausalLM",
            model_type="qwen2",
            config={
                "rope_theta": 1000000.0,
                "max_window_layers": 2,
                "sliding_window": WINDOW,
                "use_sliding_window": False,
                "tie_word_embeddings": True,
            },
            tokenizer={
                "kind": "split",
                "first": [],
                "markup": _CHATML,
                "bos": None,
                "pattern": tokenizers.QWEN_SPLIT,
                "nfc": True,
            },
            specials={
                "tokenizer_class": "Qwen2Tokenizer",
                "add_prefix_space": False,
                "add_bos_token": False,
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "unk_token": None,
            },
            template=templates.CHATML,
        ),
        Family(
            name="Qwen3",
            special="norms of queries and keys",
            examples="Qwen3-0.6B, Qwen3-4B",
            architecture="Qwen3ForCausalLM",
            model_type="qwen3",
            config={
                "head_dim": 32,
                "rope_theta": 1000000.0,
                "attention_bias": False,
                "max_window_layers": 2,
                "sliding_window": None,
                "use_sliding_window": False,
                "tie_word_embeddings": True,
            },
            tokenizer={
                "kind": "split",
                "first": [],
                "markup": [*_CHATML, "<think>", "</think>"],
                "bos": None,
                "pattern": tokenizers.QWEN_SPLIT,
                "nfc": True,
            },
            specials={
                "tokenizer_class": "Qwen2Tokenizer",
                "add_prefix_space": False,
                "add_bos_token": False,
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "unk_token": None,
            },
            template=templates.QWEN3,
        ),
        Family(
            name="SmolLM3",
            special="layers without positions",
            examples="SmolLM3-3B",
            architecture="SmolLM3ForCausalLM",
            model_type="smollm3",
            config={
                "num_hidden_layers": 4,
                "no_rope_layers": [1, 1, 0, 1],
                "no_rope_layer_interval": 4,
                "rope_theta": 5000000.0,
                "sliding_window": None,
                "use_sliding_window": False,
                "tie_word_embeddings": True,
            },
            tokenizer={
                "kind": "split",
                "first": [],
                "markup": ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
                "bos": None,
            },
            specials={
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": None,
                "eos_token": "<|im_end|>",
                "pad_token": "<|im_end|>",
                "clean_up_tokenization_spaces": True,
            },
            template=templates.SMOLLM3,
        ),
    )
}


def _variant(name: str, family: str, **config: Any) -> Family:
    base = FAMILIES[family]
    return replace(base, name=name, config={**base.config, **config})


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
        _variant("Mistral, no window", "Mistral", sliding_window=None, head_dim=32),
        _variant(
            "Phi-4-mini",
            "Phi-3.5",
            num_attention_heads=2,
            num_key_value_heads=1,
            partial_rotary_factor=0.5,
            tie_word_embeddings=True,
        ),
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
        config={"rope_theta": 10000.0, "tie_word_embeddings": False, **config},
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

_ASK = "What is  the capital of France?\n\nSay \"yes\" & <b>no</b> — c'est ça, n'est-ce pas?"
_ANSWER = "Paris, of course!  你好,世界 🤖 Straße\tfin"
_ASK_AGAIN = 'Привет! ¿Dónde está 今日は? 12345 {"a": [1, 2]}  '
_CHAT = [
    {"role": "user", "content": _ASK},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _ASK_AGAIN},
]
_MARKUP = "<s>x</s><|im_end|>\n<|end|> <end_of_turn> [INST] <|eot_id|> ﬁ \u00a0 \u3000 \u200d"
CONVERSATIONS = {
    "a question": _CHAT[:1],
    "a conversation": _CHAT,
    "a system message": [{"role": "system", "content": "You're a pirate: 'arr' 100%."}, *_CHAT],
    "a system message with a switch": [{"role": "system", "content": "Arr. /no_think"}, *_CHAT[:1]],
    "thoughts in an earlier answer": [
        _CHAT[0],
        {"role": "assistant", "content": "<think>\nHm, Paris?\n</think>\n\nParis."},
        _CHAT[2],
    ],
    "markup in the text": [{"role": "user", "content": _MARKUP}],
    "an empty question": [{"role": "user", "content": ""}],
    "white space around": [{"role": "user", "content": "  \n hello \n\n"}],
}
TEXTS = ("Hello, world! 100%", _ASK, _ANSWER, _ASK_AGAIN)


def make_hf(family: Family, folder: Path, *, seed: int = 0) -> Path:
    """Write a Hugging Face folder of a family, as its real models have it; returns it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    specials = {"model_max_length": 1000000000000000019884624838656, **family.specials}
    if family.template is not None:
        specials["chat_template"] = family.template
    vocabulary = tokenizers.make(folder, config=specials, **family.tokenizer)
    ids = {
        f"{kind}_token_id": vocabulary.get(family.specials.get(f"{kind}_token") or "")
        for kind in ("bos", "eos", "pad")
    }
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "dtype": "bfloat16",
        "vocab_size": len(vocabulary) + (-len(vocabulary)) % 32,
        **SMALL,
        **{name: number for name, number in ids.items() if number is not None},
        **family.config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    scale = 0.05 if "gemma" in family.model_type else 0.4
    weights = {
        name: _random(name, parameter, generator, scale)
        for name, parameter in model.state_dict().items()
        if not (tied and name.startswith("lm_head"))
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _random(name: str, parameter: Any, generator: Any, scale: float) -> Any:
    """A weight such that every part of the model matters, and no two logits are near each other."""
    import torch

    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 1:
        return (parameter + 0.3 * noise).bfloat16()
    # Embeddings small against what the layers add, so that the answer is not the question.
    outer = "embed" in name or "lm_head" in name
    gain = scale if outer else 1.5 / parameter.shape[1] ** 0.5
    return (gain * noise).bfloat16()
