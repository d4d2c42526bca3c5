"""Find what each calibrated linear layer costs the whole model. A job because of its memory use.

The error of a layer's own outputs says little about the model's outputs: an error in the values of
attention propagates, one in the gate may vanish. So the KL divergence L of the quantized model from
the reference model is differentiated. If d is the change that quantization made to a weight, the
inner product of d and dL/dw is twice the layer's share of L, where L is quadratic in d and the
errors of the layers are uncorrelated. It is computed on the layer's outputs, so that no gradient of
a weight is ever held.
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
"""Windows to differentiate, spread over the calibration set: only the order of the layers matters,
and it converges early."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Share of a linear layer in the KL divergence.

    Attributes:
        layer: index of the decoder layer.
        name: name of the linear layer below it.
        cost: the share, nats a token.
    """

    layer: int
    name: str
    cost: float


class Differentiate(Job[tuple[Cost, ...]], frozen=True, kw_only=True):
    """Find the cost of each linear layer. Progress unit: windows, `WINDOWS` in all.

    Attributes:
        source: Hugging Face folder.
        windows: `.npy` file of token ids, int64 `[windows, length]`.
        calibrated: output folder of `calibrate`.
    """

    source: Path
    windows: Path
    calibrated: Path

    def run(self, work: Work) -> tuple[Cost, ...]:
        """Find the costs."""
        import torch

        tokens = torch.from_numpy(np.load(self.windows))
        chosen = tokens[:: max(1, len(tokens) // WINDOWS)][:WINDOWS]
        by_linear = costs(self.source, chosen, self.calibrated, work)
        return tuple(
            Cost(layer=layer, name=name, cost=cost) for (layer, name), cost in by_linear.items()
        )


def costs(
    source: Path, windows: Tensor, calibrated: Path, work: Work
) -> dict[tuple[int, str], float]:
    """Compute the share of each linear layer in the KL divergence, nats a token.

    Args:
        source: Hugging Face folder.
        windows: token ids, int64 `[windows, length]`.
        calibrated: output folder of `calibrate`.
        work: receives the progress.

    Returns:
        Shares by index of the decoder layer and name of the linear layer below it.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    # In its stored dtype, the model is mapped from its file and needs no anonymous memory.
    original: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model.requires_grad_(False)

    def log_probabilities(window: Tensor) -> Tensor:
        return torch.log_softmax(model(input_ids=window[None]).logits[0, :-1].float(), -1)

    with torch.inference_mode():
        expected = [log_probabilities(window).half() for window in windows]
    shares: dict[tuple[int, str], float] = {}

    def watch(place: tuple[int, str], linear: nn.Linear, weight: Tensor) -> None:
        def see(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            error = inputs[0].detach() @ (linear.weight - weight.float()).T

            def add(gradient: Tensor) -> None:
                shares[place] = shares.get(place, 0.0) + float((gradient * error).sum()) / 2

            output.register_hook(add)  # type: ignore[no-untyped-call]

        linear.register_forward_hook(see)

    pairs = zip(model.get_decoder().layers, original.get_decoder().layers, strict=True)
    for number, (layer, first) in enumerate(pairs):
        weights = dict(first.named_modules())
        for name, linear in layer.named_modules():
            if isinstance(linear, nn.Linear):
                linear.weight.copy_(stored.load(calibrated, number, name).dequantize())
                watch((number, name), linear, weights[name].weight)
    # Some tensor must require gradients, or autograd computes none.
    model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_()
    )
    for window, log_p in zip(windows, expected, strict=True):
        p = log_p.float()
        loss = (p.exp() * (p - log_probabilities(window))).sum(-1).mean() / len(windows)
        loss.backward()  # type: ignore[no-untyped-call]
        work.advance(1)
    return shares
