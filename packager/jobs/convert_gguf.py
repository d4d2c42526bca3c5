"""Turn a GGUF file into a Hugging Face folder: a job for the memory of the whole model in fp32."""

from pathlib import Path
from typing import Any

from packager.jobs import llama3_rope
from packager.jobs.compare_tensors import Tensors, tensors
from packager.jobs.job import Job, Work


class ConvertGguf(Job[Tensors], frozen=True, kw_only=True):
    """Write config, fp32 weights, tokenizer and chat template into a folder.

    The result says how the file's tensors differ from the model's, as the file names them; with
    tensors missing, the folder is left empty.

    Attributes:
        file: the GGUF file.
        architecture: its own name of it.
        tensors: names of those that it has.
        rotary: scaling of the rotary positions in its metadata, as transformers names it.
    """

    file: Path
    architecture: str
    tensors: tuple[str, ...]
    rotary: dict[str, str | float]

    def run(self, work: Work) -> Tensors:
        """Convert it.

        Raises:
            RefusedError: its rotary positions are scaled in a way that cannot be honoured.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

        place = {
            "pretrained_model_name_or_path": str(self.file.parent),
            "gguf_file": self.file.name,
        }
        config = AutoConfig.from_pretrained(**place)
        self._scale_positions(config)
        model, info = AutoModelForCausalLM.from_pretrained(
            **place,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        compared = self._named_as_in_file(tensors(info), model)
        if compared.missing:
            return compared
        # The weights are plain now; what says otherwise would be saved with them.
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(work.target)
        AutoTokenizer.from_pretrained(**place).save_pretrained(work.target)
        return compared

    def _scale_positions(self, config: Any) -> None:
        """Give a config the scaling of rotary positions that transformers has not read."""
        scaling = self.rotary
        divided = llama3_rope.DIVISORS in self.tensors
        if scaling or divided:
            parameters = config.rope_parameters
            # Gemma 3 scales the layers that see everything, and has another base for the others.
            parameters = parameters.get("full_attention", parameters)
            if divided:
                divisors = _tensor(self.file, llama3_rope.DIVISORS)
                scaling = llama3_rope.parameters(divisors, parameters["rope_theta"])
            parameters |= scaling

    def _named_as_in_file(self, compared: Tensors, model: Any) -> Tensors:
        """Name tensors as GGUF does, those included that transformers has passed over."""
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        processor = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)
        names = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
        theirs = {ours: name for name, ours in names.items()}
        known = {*names, *(f"{name}.weight" for name in names), llama3_rope.DIVISORS}
        return Tensors(
            missing=[theirs.get(name, name) for name in compared.missing],
            mismatched=compared.mismatched,
            unexpected=sorted(set(self.tensors) - known),
        )


def _tensor(file: Path, name: str) -> Any:
    """One tensor of a file, float32."""
    from gguf import GGUFReader, dequantize

    (chosen,) = (tensor for tensor in GGUFReader(file).tensors if tensor.name == name)
    return dequantize(chosen.data, chosen.tensor_type)
