"""Randomly filled models of real models' shapes, for measuring what a build of their size takes.

    python -m tests.support.phi_shape FOLDER [LAYERS]     Phi-3.5-mini: 3.8 billion weights, 7.6 GB
    python -m tests.support.phi_vision_shape FOLDER [LAYERS]    Phi-3.5-vision: 4.1 billion, 8.3 GB
    python -m tests.support.qwen_shape FOLDER [LAYERS]    Qwen2.5-0.5B: 494 million weights, 1 GB

They answer nonsense. Written shard by shard: making one needs less than 1 GB of memory.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.evaluation.texts import PLAIN
from tests.support import tiny_model

if TYPE_CHECKING:
    import torch

# Factors like those of the real one: one for each of the 48 pairs of a head's dimensions.
SHORT = [1.0 + 0.02 * index for index in range(48)]
LONG = [1.08 + 1.3 * index for index in range(48)]
CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "longrope", "long_factor": LONG, "short_factor": SHORT},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(folder: Path, layers: int = 32) -> Path:
    """Write the Hugging Face folder of a model of Phi-3.5-mini's shape; returns it."""
    return write(folder, {**CONFIG, "num_hidden_layers": layers})


def write(folder: Path, config: dict[str, Any]) -> Path:
    """Write the Hugging Face folder of a randomly filled model; returns it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny_model.make_hf(folder)
    _train_tokenizer(folder / "tokenizer.json")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    write_weights(folder, dict(model.named_parameters()))
    return folder


def write_weights(folder: Path, shapes: "Mapping[str, torch.Tensor]") -> None:
    """Write randomly filled weights of these names and shapes, and their index."""
    import torch
    from safetensors.torch import save_file

    shards: dict[str, dict[str, torch.Tensor]] = {}
    torch.manual_seed(0)
    for name, parameter in shapes.items():
        # One shard a layer, and one for all else.
        part = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(part, {})[name] = parameter
    index: dict[str, str] = {}
    for number, (part, parameters) in enumerate(shards.items()):
        file = f"model-{number:05}.safetensors"
        filled = {
            name: torch.ones(p.shape, dtype=torch.bfloat16)
            if "norm" in name
            else torch.randn(p.shape, dtype=torch.bfloat16) * 0.02
            for name, p in parameters.items()
        }
        save_file(filled, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(filled, file)
        print(f"{part}: {file}", flush=True)
    weights = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))


def _train_tokenizer(file: Path) -> None:
    """Give a tokenizer words: of letters alone, texts have four times as many tokens as usual."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    tokenizer = Tokenizer.from_file(str(file))
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PLAIN.read_text()], trainer)
    tokenizer.save(str(file))


if __name__ == "__main__":
    make(Path(sys.argv[1]), *(int(layers) for layers in sys.argv[2:]))
