"""The tiny model as a GGUF file, written with the gguf package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def make_gguf(
    hf_folder: Path,
    file: Path,
    *,
    without: tuple[str, ...] = (),
    rope: "Mapping[str, str | float | int] | None" = None,
    keys: "Mapping[str, str | float | int] | None" = None,
    more: "Mapping[str, NDArray[np.float32]] | None" = None,
    types: "Mapping[str, str] | None" = None,
    cut: str = "gpt-2",
) -> Path:
    """Write a Hugging Face folder of `tiny_model` as fp32 GGUF; returns the file.

    Args:
        hf_folder: of `tiny_model`.
        file: to write.
        without: beginnings of the names of tensors that are left out.
        rope: metadata below `llama.rope`.
        keys: metadata below `llama`.
        more: further tensors.
        types: tensor types by a part of the tensor's name; F32 for the others.
        cut: name of the way in which texts are cut.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
    from safetensors.numpy import load_file

    config = json.loads((hf_folder / "config.json").read_text())
    vocabulary = json.loads((hf_folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens.append("ab")  # the result of the one merge that the format cannot do without
    tokens += [f"<unused{n}>" for n in range(config["vocab_size"] - len(tokens))]
    special = [token.startswith("<") and len(token) > 1 for token in tokens]
    writer = GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if each else TokenType.NORMAL for each in special])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template((hf_folder / "chat_template.jinja").read_text())
    for key, value in {**{f"rope.{k}": v for k, v in (rope or {}).items()}, **(keys or {})}.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        add[type(value)](f"llama.{key}", value)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, weights in sorted(load_file(hf_folder / "model.safetensors").items()):
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        name = name.replace("model.layers.", "blk.")
        if ".attn_q." in name or ".attn_k." in name:
            # llama.cpp rotates neighbours, transformers the halves of a head.
            head = config["head_dim"]
            halves = weights.reshape(-1, 2, head // 2, config["hidden_size"])
            weights = halves.swapaxes(1, 2).reshape(weights.shape)
        if not name.startswith(without):
            kind = next((kind for part, kind in (types or {}).items() if part in name), "F32")
            number = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(weights.astype(np.float32), number), raw_dtype=number)
    for name, weights in (more or {}).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def convert(file: Path, folder: Path) -> None:
    """Convert such a file to a Hugging Face folder, in this process."""
    from packager.jobs.convert_gguf import ConvertGguf
    from packager.jobs.job import Work
    from packager.models import gguf

    ConvertGguf(
        file=file,
        architecture="llama",
        tensors=tuple(sorted(gguf.read(file).tensors)),
        rotary={},
        fields={},
        vocabulary="gpt2",
        cut="gpt-2",
    ).run(Work(folder))
