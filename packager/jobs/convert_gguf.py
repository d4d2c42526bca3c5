"""Convert a GGUF file to a Hugging Face folder. A job because it holds weights in fp32.

transformers' own reader makes floats of a file's tensors, all at once. It is given some layers at a
time here, and what it made of them is written before the next.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packager.jobs import gguf_tokenizer, llama3_rope
from packager.jobs.compare_tensors import Tensors, tensors
from packager.jobs.job import Job, Work
from packager.weights import checkpoint

PART = 1 << 28
"""Number of weights that are converted at a time, and the rest of a layer."""
AT_ONCE = frozenset({"lfm2"})
"""Architectures that transformers reads with a newer reader, all tensors at once."""


class ConvertGguf(Job[Tensors], frozen=True, kw_only=True):
    """Write config, fp32 weights, tokenizer and chat template to a folder.

    The result lists differences between the file's tensors and the model's, under the file's names;
    if tensors are missing, the folder is not complete.

    Attributes:
        file: the GGUF file.
        architecture: name of the architecture in the file.
        tensors: names of the tensors in the file.
        vocabulary: kind of the vocabulary (`tokenizer.ggml.model`).
        cut: name of the way in which texts are cut (`tokenizer.ggml.pre`); empty if unknown.
        rotary: RoPE scaling from the file's metadata, as transformers names its parameters.
        fields: fields of the configuration that transformers does not read from the file.
    """

    file: Path
    architecture: str
    tensors: tuple[str, ...]
    rotary: dict[str, str | float]
    fields: dict[str, Any]
    vocabulary: str
    cut: str

    def run(self, work: Work) -> Tensors:
        """Convert the file.

        Raises:
            JobRefusedError: the file's RoPE scaling is not supported.
        """
        from transformers import AutoConfig, AutoTokenizer

        place = {
            "pretrained_model_name_or_path": str(self.file.parent),
            "gguf_file": self.file.name,
        }
        config = AutoConfig.from_pretrained(**place)
        self._set_fields(config)
        self._scale_positions(config)
        write = self._at_once if self.architecture in AT_ONCE else self._in_parts
        compared = write(config, work.target)
        if compared.missing:
            return compared
        # llama.cpp begins plain texts of these models with the BOS token unless a file says no.
        bos = {"add_bos_token": True} if gguf_tokenizer.begins_with_bos(self.cut) else {}
        AutoTokenizer.from_pretrained(**place, **bos).save_pretrained(work.target)
        gguf_tokenizer.complete(
            work.target, architecture=self.architecture, kind=self.vocabulary, cut=self.cut
        )
        return compared

    def _at_once(self, config: Any, target: Path) -> Tensors:
        """Write config and weights of what transformers' newer reader reads, all at once."""
        import torch
        from transformers import AutoModelForCausalLM, GgufConfig

        model, info = AutoModelForCausalLM.from_pretrained(
            str(self.file.parent),
            gguf_file=self.file.name,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        compared = self._named_as_in_file(tensors(info), model)
        if not compared.missing:
            # The weights are plain now; leftovers of the quantizer would be saved with them.
            model.hf_quantizer = None
            model.config.__dict__.pop("quantization_config", None)
            model.save_pretrained(target)
        return compared

    def _in_parts(self, config: Any, target: Path) -> Tensors:
        """Write config and weights, some layers at a time."""
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(target, state_dict={})
        stored: dict[str, str] = {}
        for number, part in enumerate(self._parts(model)):
            name = f"model-{number:05}.safetensors"
            save_file(part, target / name, metadata={"format": "pt"})
            stored |= dict.fromkeys(part, name)
        if len(set(stored.values())) == 1:
            (target / name).rename(target / checkpoint.WHOLE)
        else:
            index = {"metadata": {}, "weight_map": stored}
            (target / checkpoint.INDEX).write_text(json.dumps(index))
        _, info = AutoModelForCausalLM.from_pretrained(
            target,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        return self._named_as_in_file(tensors(info), model)

    def _parts(self, model: Any) -> Iterator[dict[str, Any]]:
        """Yield the weights of some layers at a time, by the model's names."""
        import gguf
        import torch
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        reader = gguf.GGUFReader(self.file)
        layers: dict[str, list[Any]] = {}
        for tensor in reader.tensors:
            place = re.match(r"blk\.\d+\.", tensor.name)
            layers.setdefault(place[0] if place else tensor.name, []).append(tensor)
        parts: list[list[Any]] = [[]]
        for layer in layers.values():
            if sum(int(tensor.n_elements) for tensor in parts[-1]) >= PART:
                parts.append([])
            parts[-1] += layer
        # transformers makes its reader of this name: it gets one with the tensors of a part alone.
        usual, gguf.GGUFReader = gguf.GGUFReader, lambda _: reader
        try:
            for part in parts:
                reader.tensors = part
                read = load_gguf_checkpoint(
                    str(self.file),
                    return_tensors=True,
                    model_to_load=model,
                    torch_dtype=torch.float32,
                )
                yield read["tensors"]
        finally:
            gguf.GGUFReader = usual

    def _set_fields(self, config: Any) -> None:
        """Set what transformers does not read from the file."""
        for name, value in self.fields.items():
            if name == "partial_rotary_factor":
                config.rope_parameters[name] = value
            elif name == "rope_local_base_freq":
                config.rope_parameters["sliding_attention"]["rope_theta"] = value
            else:
                setattr(config, name, value)

    def _scale_positions(self, config: Any) -> None:
        """Set the RoPE scaling that transformers does not read from GGUF."""
        scaling = self.rotary
        divided = llama3_rope.DIVISORS in self.tensors
        if scaling or divided:
            parameters = config.rope_parameters
            # Gemma 3 scales the layers with full attention; the others have another base.
            parameters = parameters.get("full_attention", parameters)
            if divided:
                divisors = _tensor(self.file, llama3_rope.DIVISORS)
                scaling = llama3_rope.parameters(divisors, parameters["rope_theta"])
            parameters |= scaling

    def _named_as_in_file(self, compared: Tensors, model: Any) -> Tensors:
        """Return the differences under GGUF names, tensors that transformers skipped included."""
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
    """Read a tensor of a file as float32."""
    from gguf import GGUFReader, dequantize

    (tensor,) = (entry for entry in GGUFReader(file).tensors if entry.name == name)
    return dequantize(tensor.data, tensor.tensor_type)
