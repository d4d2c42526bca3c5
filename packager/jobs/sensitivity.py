"""Find what each calibrated linear layer costs the whole model: a job for its memory.

The error of a layer's own outputs says little of what it does to the model's: an error in the
values of attention is carried on, one in the gate may be lost. So the KL divergence L of the
quantized model from the original is differentiated. With d the difference that quantization made to
a weight, the inner product of d and dL/dw is twice the layer's own part of L where L is quadratic
in d and the errors of the layers do not know of each other. It is taken on the layer's outputs, so
that no gradient of a weight is ever held.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from packager.jobs.job import Job, Work
from packager.weights import stored

if TYPE_CHECKING:
    from torch import Tensor

WINDOWS = 4
"""Windows differentiated, from all over the calibration text: the order of the layers is all that
is wanted, and it settles early."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The part that a linear layer has in the KL divergence, nats a token.

    Attributes:
        layer: index of the decoder layer.
        name: of the linear layer below it.
        cost: the part.
    """

    layer: int
    name: str
    cost: float


class Differentiate(Job[tuple[Cost, ...]], frozen=True, kw_only=True):
    """Find what each linear layer costs. Progress: `WINDOWS` windows.

    Attributes:
        source: Hugging Face folder.
        windows: `.npy` file of token ids, int64 `[windows, length]`.
        calibrated: folder that `calibrate` filled.
    """

    source: Path
    windows: Path
    calibrated: Path

    def run(self, work: Work) -> tuple[Cost, ...]:
        """Find them."""
        import torch

        tokens = torch.from_numpy(np.load(self.windows))
        chosen = tokens[:: max(1, len(tokens) // WINDOWS)][:WINDOWS]
        places = costs(self.source, chosen, self.calibrated, work)
        return tuple(
            Cost(layer=layer, name=name, cost=cost) for (layer, name), cost in places.items()
        )


def costs(
    source: Path, windows: Tensor, calibrated: Path, work: Work
) -> dict[tuple[int, str], float]:
    """Compute the part that each linear layer has in the KL divergence, in nats a token.

    Args:
        source: Hugging Face folder.
        windows: token ids, int64 `[windows, length]`.
        calibrated: folder that `calibrate` filled.
        work: gets the progress.

    Returns:
        By index of the decoder layer and name of the linear layer below it.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    # In the type it is stored in, the original is mapped from the file and takes no memory.
    original: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model.requires_grad_(False)

    def log_probabilities(window: Tensor) -> Tensor:
        return torch.log_softmax(model(input_ids=window[None]).logits[0, :-1].float(), -1)

    with torch.inference_mode():
        wanted = [log_probabilities(window).half() for window in windows]
    found: dict[tuple[int, str], float] = {}

    def watch(place: tuple[int, str], linear: nn.Linear, own: Tensor) -> None:
        def see(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            error = inputs[0].detach() @ (linear.weight - own.float()).T

            def add(gradient: Tensor) -> None:
                found[place] = found.get(place, 0.0) + float((gradient * error).sum()) / 2

            output.register_hook(add)  # type: ignore[no-untyped-call]

        linear.register_forward_hook(see)

    pairs = zip(model.get_decoder().layers, original.get_decoder().layers, strict=True)
    for number, (layer, first) in enumerate(pairs):
        weights = dict(first.named_modules())
        for name, linear in layer.named_modules():
            if isinstance(linear, nn.Linear):
                linear.weight.copy_(stored.load(calibrated, number, name).dequantize())
                watch((number, name), linear, weights[name].weight)
    # Something must ask for gradients, or none are made.
    model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_()
    )
    for window, log_p in zip(windows, wanted, strict=True):
        p = log_p.float()
        loss = (p.exp() * (p - log_probabilities(window))).sum(-1).mean() / len(windows)
        loss.backward()  # type: ignore[no-untyped-call]
        work.advance(1)
    return found
