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
