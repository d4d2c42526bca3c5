"""Checkpoints whose weights are quantized already."""

import json
import shutil
from pathlib import Path
from typing import Any


def configure(folder: Path, **quantization: Any) -> None:
    """Write a quantization_config into a folder's configuration."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


def fp8(folder: Path, target: Path, block: int | None) -> Path:
    """Copy a folder with its matrices in FP8 as DeepSeek and Qwen publish them; returns the copy.

    Args:
        folder: of `tiny_model`.
        target: the copy.
        block: rows and columns that share a scale; None for a scale for each matrix.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if weight.ndim < 2 or "layers" not in name:
            tensors[name] = weight.bfloat16()
            continue
        rows, columns = (block or size for size in weight.shape)
        blocks = weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        scales = blocks.abs().amax((1, 3), keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (blocks / scales).reshape(weight.shape).to(torch.float8_e4m3fn)
        scales = scales[:, 0, :, 0].float()
        tensors[f"{name}_scale_inv"] = scales.contiguous() if block else scales.reshape(())
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    configure(
        target,
        quant_method="fp8",
        activation_scheme="dynamic",
        weight_block_size=[block, block] if block else None,
        modules_to_not_convert=["lm_head"],
    )
    return target


def mxfp4(folder: Path, target: Path) -> Path:
    """Write a tiny gpt-oss with experts in MXFP4, as OpenAI publishes it; returns its folder.

    Args:
        folder: of `tiny_model`, whose tokenizer it gets.
        target: the folder to write.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, GptOssConfig

    config = GptOssConfig(
        vocab_size=288,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(target)
    chance = torch.Generator().manual_seed(0)
    tensors = load_file(target / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj")]:
        experts, rows, columns = tensors.pop(name).shape
        shape = (experts, columns, rows // 32)
        for part, low, high, more in (("blocks", 0, 256, (16,)), ("scales", 120, 124, ())):
            codes = torch.randint(low, high, (*shape, *more), generator=chance)
            tensors[f"{name}_{part}"] = codes.to(torch.uint8)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    configure(
        target,
        quant_method="mxfp4",
        modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    )
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        shutil.copyfile(path, target / path.name)
    return target
