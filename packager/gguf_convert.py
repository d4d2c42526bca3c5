"""Turn a GGUF file into a Hugging Face folder. Runs as a child process:

    python -m packager.gguf_convert FILE FOLDER

A child, because it takes the memory of the whole model in fp32, and transformers prints much. The
last line on stdout is a `Tensors` as JSON; with tensors missing, the folder is left empty.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from packager import gguf_file
from packager.tensors import Tensors
from packager.weights_check import tensors


def convert(file: Path, folder: Path) -> Tensors:
    """Write config, fp32 weights, tokenizer and chat template into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model, info = AutoModelForCausalLM.from_pretrained(
        **place,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    compared = named_as_in_file(tensors(info), model, file)
    if compared.missing:
        return compared
    # The weights are plain now; what says otherwise would be saved with them.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    return compared


def named_as_in_file(compared: Tensors, model: Any, file: Path) -> Tensors:
    """Name tensors as GGUF does, those included that transformers has passed over."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    header = gguf_file.read(file)
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    names = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    theirs = {ours: name for name, ours in names.items()}
    known = {*names, *(f"{name}.weight" for name in names)}
    return Tensors(
        missing=[theirs.get(name, name) for name in compared.missing],
        mismatched=compared.mismatched,
        unexpected=sorted(header.tensors - known),
    )


if __name__ == "__main__":
    compared = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write("\n" + msgspec.json.encode(compared).decode() + "\n")
