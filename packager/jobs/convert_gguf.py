"""Turn a GGUF file into a Hugging Face folder. Runs as a child process:

    python -m packager.jobs.convert_gguf FILE FOLDER

A child, because it takes the memory of the whole model in fp32, and transformers prints much. The
last line on stdout is a `Tensors` as JSON; with tensors missing, the folder is left empty.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from packager.errors import ModelSourceError
from packager.jobs.compare_tensors import tensors
from packager.models import gguf, gguf_rope
from packager.models.tensors import Tensors


def convert(file: Path, folder: Path) -> Tensors:
    """Write config, fp32 weights, tokenizer and chat template into a folder.

    Raises:
        ModelSourceError: its rotary positions are scaled in a way that cannot be honoured.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    config = AutoConfig.from_pretrained(**place)
    scale_positions(config, file)
    model, info = AutoModelForCausalLM.from_pretrained(
        **place,
        config=config,
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


def scale_positions(config: Any, file: Path) -> None:
    """Give a config the scaling of rotary positions that transformers has not read.

    Raises:
        ModelSourceError: it cannot be honoured.
    """
    header = gguf.read(file)
    scaling = gguf_rope.scaling(header)
    divided = gguf_rope.DIVISORS in header.tensors
    if scaling or divided:
        parameters = config.rope_parameters
        # Gemma 3 scales the layers that see everything, and has another base for the others.
        parameters = parameters.get("full_attention", parameters)
        if divided:
            divisors = tensor(file, gguf_rope.DIVISORS)
            scaling = gguf_rope.llama3(divisors, parameters["rope_theta"])
        parameters |= scaling


def tensor(file: Path, name: str) -> Any:
    """One tensor of a file, float32."""
    from gguf import GGUFReader, dequantize

    (chosen,) = (each for each in GGUFReader(file).tensors if each.name == name)
    return dequantize(chosen.data, chosen.tensor_type)


def named_as_in_file(compared: Tensors, model: Any, file: Path) -> Tensors:
    """Name tensors as GGUF does, those included that transformers has passed over."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    header = gguf.read(file)
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    names = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    theirs = {ours: name for name, ours in names.items()}
    known = {*names, *(f"{name}.weight" for name in names), gguf_rope.DIVISORS}
    return Tensors(
        missing=[theirs.get(name, name) for name in compared.missing],
        mismatched=compared.mismatched,
        unexpected=sorted(header.tensors - known),
    )


if __name__ == "__main__":
    try:
        compared = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ModelSourceError as error:
        sys.exit(str(error))
    sys.stdout.write("\n" + msgspec.json.encode(compared).decode() + "\n")
