"""A randomly filled model of exactly Qwen2.5-0.5B's shape; `phi_shape` says how to make it."""

import sys
from pathlib import Path

from tests.support import phi_shape

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(folder: Path, layers: int = 24) -> Path:
    """Write the Hugging Face folder; returns it."""
    return phi_shape.write(folder, {**CONFIG, "num_hidden_layers": layers})


if __name__ == "__main__":
    make(Path(sys.argv[1]), *(int(layers) for layers in sys.argv[2:]))
