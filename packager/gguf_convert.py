"""Turn a GGUF file into a Hugging Face folder. Runs as a child process:

    python -m packager.gguf_convert FILE FOLDER

A child, because it takes the memory of the whole model in fp32, and transformers prints much.
"""

import sys
from pathlib import Path


def convert(file: Path, folder: Path) -> None:
    """Write config, fp32 weights, tokenizer and chat template into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are plain now; what says otherwise would be saved with them.
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
