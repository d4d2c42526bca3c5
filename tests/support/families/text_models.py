"""Families of models that also see or hear; of them the text model is built. As data."""

from typing import Any

from tests.support.families import GEMMA_CONFIG, Family, templates, tokenizers

_SIGHT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
_SIGHT = {**_SIGHT, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def _around(text: str, **more: Any) -> dict[str, Any]:
    return {"text_config": {"model_type": text}, **more}


_GEMMA3 = Family(
    "Gemma 3, with vision",
    "Gemma3ForConditionalGeneration",
    "gemma3",
    special="as Gemma 3; positions of global layers scaled; weights beside a vision tower",
    examples="gemma-3-4b-it",
    config={
        **GEMMA_CONFIG,
        "num_hidden_layers": 4,
        "max_position_embeddings": 131072,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "query_pre_attn_scalar": 8,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    around=_around(
        "gemma3_text",
        vision_config={"model_type": "siglip_vision_model", **_SIGHT},
        mm_tokens_per_image=4,
        image_token_index=300,
        boi_token_index=301,
        eoi_token_index=302,
        eos_token_id=[1, 106],
    ),
    tokenizer=tokenizers.GEMMA,
    template=templates.GEMMA3,
    prompt_tokens=(40, 1024 - 16, 1024 + 40),
)

_MINISTRAL3 = Family(
    "Ministral 3",
    "Mistral3ForConditionalGeneration",
    "mistral3",
    special="YaRN; queries scaled by position beyond 16,384 tokens; weights beside a vision tower",
    examples="Ministral-3-3B-Instruct-2512",
    config={
        "head_dim": 32,
        "max_position_embeddings": 262144,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "max_position_embeddings": 16384,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    around=_around(
        "ministral3",
        vision_config={"model_type": "pixtral", "head_dim": 16, "rope_theta": 10000.0, **_SIGHT},
        image_token_index=10,
        spatial_merge_size=2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
    ),
    tokenizer=tokenizers.MINISTRAL3,
    template=templates.MINISTRAL3,
    prompt_tokens=(40,),
)

_QWEN3_5 = Family(
    "Qwen3.5",
    "Qwen3_5ForConditionalGeneration",
    "qwen3_5",
    special="linear attention (gated delta net) in three of four layers, gated attention",
    examples="Qwen3.5-0.8B, Qwen3.5-4B",
    config={
        "num_hidden_layers": 4,
        "head_dim": 64,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "mtp_num_hidden_layers": 1,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [3, 3, 2],
        },
    },
    around=_around(
        "qwen3_5_text",
        vision_config={
            "model_type": "qwen3_5",
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
        },
        image_token_id=300,
        video_token_id=301,
    ),
    tokenizer=tokenizers.QWEN3_5,
    template=templates.QWEN3_5,
)

_QWEN3_VL = Family(
    "Qwen3-VL",
    "Qwen3VLForConditionalGeneration",
    "qwen3_vl",
    special="as Qwen3: its three positions a token are equal without images",
    examples="Qwen3-VL-2B-Instruct",
    config={
        "head_dim": 32,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
        "rope_theta": 5000000.0,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": [6, 5, 5],
        },
    },
    around=_around(
        "qwen3_vl_text",
        vision_config={
            "model_type": "qwen3_vl",
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=300,
        video_token_id=301,
    ),
    tokenizer=tokenizers.QWEN3,
    template=templates.QWEN3,
)

_QWEN2_5_VL = Family(
    "Qwen2.5-VL",
    "Qwen2_5_VLForConditionalGeneration",
    "qwen2_5_vl",
    special="as Qwen2: its three positions a token are equal without images",
    examples="Qwen2.5-VL-3B-Instruct",
    config={
        "max_position_embeddings": 128000,
        "tie_word_embeddings": True,
        "rope_theta": 1000000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    },
    around=_around(
        "qwen2_5_vl_text",
        vision_config={
            "model_type": "qwen2_5_vl",
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [0],
        },
        image_token_id=300,
        video_token_id=301,
    ),
    tokenizer=tokenizers.QWEN2,
    template=templates.CHATML,
)

_LFM2_VL = Family(
    "LFM2-VL",
    "Lfm2VlForConditionalGeneration",
    "lfm2_vl",
    special="short convolutions between attention layers; weights beside a vision tower",
    examples="LFM2-VL-450M",
    config={
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_hidden_layers": 4,
        "block_ff_dim": 128,
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 3,
        "norm_eps": 1e-5,
        "max_position_embeddings": 128000,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    around=_around(
        "lfm2",
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_patches": 16,
            "patch_size": 14,
        },
        image_token_id=300,
        downsample_factor=2,
        projector_hidden_size=64,
    ),
    tokenizer=tokenizers.LFM2,
    template=templates.LFM2,
)

_GEMMA4 = Family(
    "Gemma 4",
    "Gemma4UnifiedForConditionalGeneration",
    "gemma4_unified",
    special="heads of two sizes, keys that are values in global layers, scaled layers",
    examples="gemma-4-12b-it",
    config={
        **GEMMA_CONFIG,
        "num_hidden_layers": 4,
        "max_position_embeddings": 131072,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "num_key_value_heads": 2,
        "head_dim": 32,
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
            },
        },
    },
    around=_around(
        "gemma4_unified_text",
        vision_config={
            "model_type": "gemma4_unified_vision",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 96,
            "mm_posemb_size": 16,
            "output_proj_dims": 96,
        },
        audio_config={"model_type": "gemma4_unified_audio", "audio_embed_dim": 32},
    ),
    tokenizer=tokenizers.GEMMA4,
    template=templates.GEMMA4,
    prompt_tokens=(40, 1024 - 16, 1024 + 40),
)

TEXT_MODELS = (_GEMMA3, _GEMMA4, _QWEN2_5_VL, _QWEN3_5, _QWEN3_VL, _MINISTRAL3, _LFM2_VL)
