"""Take the codes of a GGUF file's linear layers, head and embedding as they are.

A job because of its memory: one decoder layer, or the head, in float.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.jobs.job import Job, JobRefusedError, Work
from packager.weights import blocks, gguf_codes, kquant, stored
from packager.weights.layerwise import Weights
from packager.weights.stored import EMBEDDING, HEAD, LinearError

if TYPE_CHECKING:
    from torch import Tensor

    from packager.weights.blocks import Blocks

MAX_ERROR = 0.1
"""Squared error relative to the converted weight above which codes are not those of that layer.
Weights of 2 bits that are rounded to 4 come to 0.01; those of another layer, to 2."""

_LINEAR = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)\.weight")
_OUTSIDE = re.compile(rf"(?:.*\.)?({HEAD}|{EMBEDDING})\.weight")


class KeepGguf(Job[None], frozen=True, kw_only=True):
    """Write the weights of a GGUF file as a folder that `stored` describes. Progress: layers.

    Attributes:
        file: the GGUF file.
        folder: the same model as a Hugging Face folder (`convert_gguf`).
        architecture: name of the architecture in the file.
    """

    file: Path
    folder: Path
    architecture: str

    def run(self, work: Work) -> None:
        """Decode the tensors and write them, in the order of the layers.

        Raises:
            JobRefusedError: a tensor does not represent the weight of its layer.
        """
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        processor = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)(config=config)
        floats = Weights(self.folder)
        layers = _by_layer(self.file, floats, _names(self.architecture, config))
        for layer, tensors in layers.items():
            linears = {}
            for name, (tensor, ours) in tensors.items():
                converted = floats[ours]
                weight = _weight(tensor, processor, converted)
                error = _error(layer, name, weight, converted)
                # NaN is not below the limit either.
                if not error.relative < MAX_ERROR:
                    raise _refusal(tensor, "they are not those of the converted weight")
                linears[name] = (weight, error)
            stored.save(stored.file_of(work.target, layer), linears, {})
            work.advance(1)


def _names(architecture: str, config: dict[str, Any]) -> Any:
    """Return the gguf package's map from names of Hugging Face models to those in files."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    known = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    # Files of the architecture `mistral` have Llama's names.
    number = known.get(architecture, MODEL_ARCH.LLAMA)
    return get_tensor_name_map(number, config["num_hidden_layers"])


def _by_layer(
    file: Path, floats: Weights, names: Any
) -> dict[int | None, dict[str, tuple[Any, str]]]:
    """Find the tensors of linear layers; None stands for head and embedding.

    Returns:
        For each layer, the tensors with transformers' names by names of the linear layers.
    """
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    layers: dict[int | None, dict[str, tuple[Any, str]]] = defaultdict(dict)
    for ours in floats:
        theirs = names.get_name(ours, try_suffixes=(".weight",))
        tensor = tensors.get(theirs)
        if tensor is None or len(tensor.shape) != 2:
            continue
        inside, outside = _LINEAR.fullmatch(ours), _OUTSIDE.fullmatch(ours)
        if inside:
            layers[int(inside[1])][inside[2]] = (tensor, ours)
        elif outside:
            layers[None][outside[1]] = (tensor, ours)
    if HEAD not in layers[None]:
        # Tied: the one weight is stored as the head's.
        layers[None] = {HEAD: layers[None][EMBEDDING]}
    return layers


def _weight(tensor: Any, processor: Any, floats: Tensor) -> Blocks:
    """Return a tensor's weight, its rows in transformers' order.

    Raises:
        JobRefusedError: it has not the shape of the converted weight, or scales that are not
            finite.
    """
    import numpy as np
    import torch

    kind = tensor.tensor_type.name
    if kind in gguf_codes.DECODED:
        rows = processor.process(weights=np.arange(len(floats))[:, None], name=tensor.name).weights
        try:
            decoded = gguf_codes.decode(tensor.data, kind)
        except ValueError as error:
            raise _refusal(tensor, str(error)) from None
        weight = decoded.rows(torch.from_numpy(rows.flatten()))
    elif kind in gguf_codes.FINER | gguf_codes.FLOATS:
        weight = blocks.eight_bits(floats, block_size=gguf_codes.BLOCK_SIZE)
    else:
        weight = kquant.fit(floats, bits=4, block_size=gguf_codes.BLOCK_SIZE)
    if weight.codes.shape != floats.shape:
        shapes = f"{list(weight.codes.shape)}, not {list(floats.shape)}"
        raise _refusal(tensor, f"their shape is {shapes}")
    return weight


def _error(layer: int | None, name: str, weight: Blocks, floats: Tensor) -> LinearError:
    """Compare a weight with the converted one: no text is run through the model for its outputs."""
    lost = float((weight.dequantize() - floats).square().sum())
    relative = lost / max(float(floats.square().sum()), 1e-30)
    return LinearError(
        layer=-1 if layer is None else layer,
        name=name,
        relative=relative,
        nearest=relative,
        absolute=lost,
        parameters=floats.numel(),
    )


def _refusal(tensor: Any, reason: str) -> JobRefusedError:
    return JobRefusedError(f"the codes of the tensor {tensor.name} cannot be kept: {reason}")
