"""Find what each calibrated linear layer costs the whole model: a job, and resumable by layer.

The error of a layer's own outputs says little about the model's outputs: an error in the values of
attention propagates, one in the gate may vanish. So the KL divergence L of the quantized model from
the reference model is differentiated. If d is the change that quantization made to a weight, the
inner product of d and dL/dw is twice the layer's share of L, where L is quadratic in d and the
errors of the layers are uncorrelated. It is computed on the layer's outputs, so that no gradient of
a weight is ever held. The share of the head is the divergence that its own quantization adds, and
if the embedding shares its weight, the share of that.

One decoder layer is in memory at a time. On the way up, the inputs of each are stored; on the way
down, each layer is run again on them, and differentiated (Chen et al., "Training Deep Nets with
Sublinear Memory Cost", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from packager.jobs.job import Job, Work
from packager.weights import states, stored
from packager.weights.layerwise import ROWS, LayerwiseModel

if TYPE_CHECKING:
    from torch import Tensor, nn

WINDOWS = 4
"""Windows to differentiate, spread over the calibration set: only the order of the layers matters,
and it converges early."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Share of a linear layer in the KL divergence.

    Attributes:
        layer: index of the decoder layer; -1 for the head.
        name: name of the linear layer below it.
        cost: the share, nats a token.
    """

    layer: int
    name: str
    cost: float


class Differentiate(Job[tuple[Cost, ...]], frozen=True, kw_only=True):
    """Find the cost of each linear layer. Progress unit: layers, each twice.

    The folder gets files of the job's own; started again on the same folder, it continues.

    Attributes:
        source: Hugging Face folder.
        windows: `.npy` file of token ids, int64 `[windows, length]`.
        calibrated: output folder of `calibrate`.
        bfloat16: multiply in bfloat16 where the layers run, as `calibrate` does.
    """

    source: Path
    windows: Path
    calibrated: Path
    bfloat16: bool = False

    def run(self, work: Work) -> tuple[Cost, ...]:
        """Find the costs.

        Raises:
            ValueError: the model cannot be taken apart.
            OSError: the disk is full.
        """
        import torch

        tokens = torch.from_numpy(np.load(self.windows))
        chosen = tokens[:: max(1, len(tokens) // WINDOWS)][:WINDOWS]
        walk = _Walk(LayerwiseModel(self.source, bfloat16=self.bfloat16), self.calibrated, work)
        walk.up(chosen)
        return tuple(sorted(walk.down(), key=lambda cost: cost.layer))


class _Walk:
    """The way up through the layers of a model and of its quantized form, and the way down."""

    def __init__(self, model: LayerwiseModel, calibrated: Path, work: Work) -> None:
        self._model, self._calibrated, self._work = model, calibrated, work

    def up(self, windows: Tensor) -> None:
        """Store the inputs of each layer in both models, `[windows, length, hidden]`."""
        import torch

        quantized = self._model.start(windows, self._head()) if self._model.tied else None
        first = self._model.start(windows)
        if not self._inputs(0).exists():
            quantized = first.clone() if quantized is None else quantized
            states.save(self._inputs(0), {"float": first, "quantized": quantized})
        for index in range(self._model.count):
            if not self._inputs(index + 1).exists():
                inputs = states.load(self._inputs(index))
                with self._model.layer(index) as layer:
                    float_ = torch.cat(list(self._model.run(index, inputs["float"])))
                    self._quantize(index, layer)
                    quantized = torch.cat(list(self._model.run(index, inputs["quantized"])))
                states.save(self._inputs(index + 1), {"float": float_, "quantized": quantized})
            self._work.advance(1)

    def down(self) -> Iterator[Cost]:
        """Find the costs, and store the gradient of each layer's inputs."""
        above = self._gradients(self._model.count)
        if not above.exists():
            states.save(above, {"gradient": self._at_the_top()})
        for index in reversed(range(self._model.count)):
            path = self._gradients(index)
            if not path.exists():
                gradient, shares = self._through(index, states.load(above)["gradient"])
                states.save(path, {"gradient": gradient, **shares})
            for name, share in states.load(path).items():
                if name != "gradient":
                    yield Cost(layer=index, name=name, cost=float(share))
            above = path
            self._work.advance(1)
        cost = self._of_the_head() + self._of_the_embedding(states.load(above)["gradient"])
        yield Cost(layer=-1, name=stored.HEAD, cost=cost)

    def _inputs(self, index: int) -> Path:
        return self._work.target / f"inputs-{index:03}.safetensors"

    def _gradients(self, index: int) -> Path:
        return self._work.target / f"gradients-{index:03}.safetensors"

    def _quantize(self, index: int, layer: nn.Module) -> dict[str, tuple[nn.Linear, Tensor]]:
        """Replace the weights of a layer's linear layers; return these, and the float weights."""
        from torch import nn

        linears = {
            name: (part, part.weight.data)
            for name, part in layer.named_modules()
            if isinstance(part, nn.Linear)
        }
        for name, (linear, _) in linears.items():
            linear.weight.data = stored.load(self._calibrated, index, name).dequantize()
        return linears

    def _at_the_top(self) -> Tensor:
        """Compute the gradient of the divergence with respect to the last layer's outputs."""
        import torch

        outputs = states.load(self._inputs(self._model.count))
        gradient = torch.zeros_like(outputs["quantized"])
        windows, length, _ = gradient.shape
        with self._model.head() as logits:
            # The last token of a window predicts nothing that is in it.
            for at in product(range(windows), range(0, length - 1, ROWS)):
                window, rows = at[0], slice(at[1], min(at[1] + ROWS, length - 1))
                with torch.no_grad():
                    expected = torch.softmax(logits(outputs["float"][window, rows]), -1)
                hidden = outputs["quantized"][window, rows].requires_grad_()
                given = logits(hidden)
                # The derivative of sum p (log p - log q) with respect to the logits of q is q - p.
                slope = torch.softmax(given.detach(), -1).sub_(expected)
                given.backward(slope.div_((length - 1) * windows))  # type: ignore[no-untyped-call]
                assert hidden.grad is not None
                gradient[window, rows] = hidden.grad
        return gradient

    def _of_the_head(self) -> float:
        """Compute the divergence that the quantized head adds to the quantized layers."""
        import torch

        outputs = states.load(self._inputs(self._model.count))["quantized"]
        weight = self._head()
        total = 0.0
        for hidden in outputs[:, :-1]:
            with torch.no_grad(), self._model.head() as logits:
                p = torch.log_softmax(logits(hidden), -1)
            with torch.no_grad(), self._model.head(weight) as logits:
                q = torch.log_softmax(logits(hidden), -1)
            total += float((p.exp() * (p - q)).sum(-1).mean())
        return total / len(outputs)

    def _of_the_embedding(self, gradient: Tensor) -> float:
        """Compute the share of the embedding: 0 if its weight is not that of the head."""
        inputs = states.load(self._inputs(0))
        return float((gradient * (inputs["quantized"] - inputs["float"])).sum() / 2)

    def _head(self) -> Tensor:
        """Return the quantized weight of the head."""
        return stored.load(self._calibrated, None, stored.HEAD).dequantize()

    def _through(self, index: int, above: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Differentiate a layer.

        Args:
            index: index of the layer.
            above: gradient with respect to its outputs.

        Returns:
            The gradient with respect to its inputs, and the shares of its linear layers by name.
        """
        import torch

        gradients: list[Tensor] = []
        inputs = states.load(self._inputs(index))["quantized"]
        with self._model.layer(index) as layer, ExitStack() as hooks:
            shares = {}
            for name, (linear, weight) in self._quantize(index, layer).items():
                shares[name] = torch.zeros((), dtype=torch.float64)
                hook = linear.register_forward_hook(partial(_watch, weight, shares[name]))
                hooks.callback(hook.remove)
            for batch, gradient in zip(torch.split(inputs, 1), torch.split(above, 1), strict=True):
                batch.requires_grad_()
                self._model.outputs(index, batch).backward(gradient)  # type: ignore[no-untyped-call]
                assert batch.grad is not None
                gradients.append(batch.grad)
        return torch.cat(gradients), shares


def _watch(
    weight: Tensor, share: Tensor, linear: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Add a quantized linear layer's share, once its outputs' gradient is known: a forward hook."""
    error = inputs[0].detach() @ (linear.weight - weight).T

    def add(gradient: Tensor) -> None:
        share.add_((gradient.float() * error).sum() / 2)

    output.register_hook(add)  # type: ignore[no-untyped-call]
