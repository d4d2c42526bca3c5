"""Write a twin of a Llama model whose weights are on no grid: the same function, other weights.

    python -m scripts.off_grid HF_FOLDER MODEL.gguf TARGET_FOLDER

Weights that were decoded from a quantized file lie on its grid, and a quantizer that finds the grid
again looks better than it is. Norms are divided and the columns after them multiplied by random
factors, and so are the rows of values and up projections and the columns that take them: no output
changes, and every block of weights is of another shape. Writes the Hugging Face folder, and
`F32.gguf` with the metadata of MODEL.gguf.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM

LEAST, MOST = 0.8, 1.25
SEED = 7
LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def rescale(model: Any) -> None:
    """Rescale the weights of a Llama model, in place."""
    generator = torch.Generator().manual_seed(SEED)
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // config.num_key_value_heads

    def factors(count: int) -> torch.Tensor:
        return LEAST + (MOST - LEAST) * torch.rand(count, generator=generator)

    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, linears in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            columns = factors(config.hidden_size)
            norm.weight.div_(columns)
            for linear in linears:
                linear.weight.mul_(columns)
        rows = factors(config.intermediate_size)
        mlp.up_proj.weight.mul_(rows[:, None])
        mlp.down_proj.weight.div_(rows)
        rows = factors(config.num_key_value_heads * head)
        attention.v_proj.weight.mul_(rows[:, None])
        columns = rows.reshape(-1, head).repeat_interleave(shared, 0).flatten()
        attention.o_proj.weight.div_(columns)


def write_gguf(model: Any, template: Path, target: Path) -> None:
    """Write a Llama model as fp32 GGUF, with the metadata of another file."""
    reader = gguf.GGUFReader(template)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *rest = field.types
        writer.add_key_value(name, field.contents(), kind, sub_type=rest[-1] if rest else None)
    weights = model.state_dict()
    others = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight")
        _, _, rest = name.partition("blk.")
        layer, _, part = rest.partition(".")
        ours = f"model.layers.{layer}.{LINEARS[part]}" if rest else others[name]
        weight = weights[f"{ours}.weight"]
        if part in ("attn_q", "attn_k"):
            # llama.cpp has the two halves of a rotary pair next to each other.
            config = model.config
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2)
            weight = weight.reshape(-1, weight.shape[-1])
        writer.add_tensor(tensor.name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write the twin."""
    source, template, target = (Path(argument) for argument in sys.argv[1:])
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.requires_grad_(False)
    rescale(model)
    model.save_pretrained(target)
    for path in source.iterdir():
        if not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
    write_gguf(model, template, target / "F32.gguf")


if __name__ == "__main__":
    main()
