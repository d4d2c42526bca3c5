"""Randomly filled models of real models' shapes: they answer nonsense, at the real one's speed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.models.catalog import CATALOG
from tests.support import phi_shape

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama3.2-1b": {**LLAMA, **CATALOG["llama3.2-1b"].shape},
    "phi3.5-mini": {**phi_shape.CONFIG, **CATALOG["phi3.5-mini"].shape},
}
"""Configurations by the name of the real model in the catalog."""

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Parts of the names of tensors: transformers' and GGUF's."""


def write(name: str, folder: Path) -> None:
    """Write the Hugging Face folder of a model."""
    phi_shape.write(folder, dict(CONFIGS[name]))


def write_gguf(source: Path, file: Path) -> None:
    """Write such a folder as GGUF, in bfloat16.

    llama.cpp rotates other pairs of a head's dimensions: with the same random weights it answers
    other nonsense.
    """
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter
    from safetensors import safe_open

    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(file, config["model_type"])
    _describe(writer, source, config)
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(name)
                for theirs, ours in NAMES.items():
                    name = name.replace(theirs, ours)
                if tensor.ndim == 1:
                    writer.add_tensor(name, tensor.float().numpy())
                else:
                    data = tensor.view(torch.uint8).numpy()
                    writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, source: Path, config: Mapping[str, Any]) -> None:
    """Add the sizes and the tokenizer; its tokens beyond those of the folder are never chosen."""
    import numpy as np
    from gguf import TokenType

    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    # From the names of real models, llama.cpp concludes which special tokens they have.
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if "rope_scaling" in config:
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        for kind in ("long", "short"):
            factors = np.array(config["rope_scaling"][f"{kind}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens += [f"<unused{n}>" for n in range(config["vocab_size"] - len(tokens))]
    special = [token.startswith("<") and len(token) > 1 for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if it else TokenType.NORMAL for it in special])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template((source / "chat_template.jinja").read_text())
