"""A tiny random Llama model with a byte-level tokenizer of its own: real files, built in seconds.

It answers nonsense, but every layer of edgepack takes it for a language model.
"""

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_hf(folder: Path, *, seed: int = 0, sure: float = 1.0, positions: int = 2048) -> Path:
    """Write a Hugging Face folder (config, safetensors, tokenizer); returns it.

    Args:
        folder: the folder.
        seed: seed of the random weights.
        sure: factor for all logits; as it is, the model is never sure of a token.
        positions: longest context, tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary) + (-len(vocabulary)) % 32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Embeddings and head are one matrix: a row of zeros is a token that never wins. Letters only.
    letters = [number for token, number in vocabulary.items() if token.isascii() and len(token) < 2]
    silent = torch.ones(config.vocab_size, dtype=torch.bool)
    silent[letters] = False
    with torch.no_grad():
        model.get_input_embeddings().weight[silent] = 0
        model.model.norm.weight *= sure
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def round_to_q4_0(hf_folder: Path, folder: Path) -> Path:
    """Copy a Hugging Face folder, its linear layers as quantization-aware training leaves them.

    Their weights are those that llama.cpp's Q4_0 stands for, in bfloat16.
    """
    import shutil

    import torch
    from gguf import GGMLQuantizationType, dequantize, quantize
    from safetensors.torch import load_file, save_file

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        q4_0 = GGMLQuantizationType.Q4_0
        return torch.from_numpy(dequantize(quantize(weight.float().numpy(), q4_0), q4_0))

    shutil.copytree(hf_folder, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, weight in tensors.items():
        if "_proj" in name:
            tensors[name] = rounded(weight).bfloat16()
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def make_onnx(hf_folder: Path, folder: Path, work: Path, precision: str = "fp32") -> Path:
    """Build the ONNX GenAI folder of a Hugging Face folder with the model builder; returns it."""
    import subprocess
    import sys

    subprocess.run(
        [
            *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
            *("-i", hf_folder, "-o", folder, "-p", precision, "-e", "cpu", "-c", work),
            *("--extra_options", "hf_token=false"),
        ],
        check=True,
        capture_output=True,
    )
    return folder
