"""Hugging Face causal language models with one decoder layer in memory at a time.

The model is created without weights; its embedding, its final norm and one decoder layer after the
other get theirs, as float32, when needed. The arguments of a layer (masks, rotary tables,
positions) come from the model's own code, so that no family needs special treatment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.weights import checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

AT_A_TIME = 4
"""Batch size: windows that pass through a layer together."""

ROWS = 64
"""Tokens whose logits are in memory at a time; a large vocabulary needs 1 MB per token."""


class _StopError(Exception):
    """Signal that ends a forward pass whose remaining outputs are not needed."""


class LayerwiseModel:
    """A model whose weights are loaded on demand and released.

    Attributes:
        config: configuration of the model, of transformers.
        count: number of decoder layers.
        tied: embedding and head share their weight.
    """

    def __init__(
        self, source: Path, *, trust_remote_code: bool = False, bfloat16: bool = False
    ) -> None:
        """Create the model of a Hugging Face folder (safetensors), without weights.

        Args:
            source: the folder.
            trust_remote_code: run Python code that comes with the model.
            bfloat16: multiply in bfloat16 in layers; the hidden states stay float32.

        Raises:
            ValueError: the layout of the folder's weights is not that of transformers.
        """
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        # Buffers are computed, not loaded: they must not be on the meta device.
        with init_empty_weights(include_buffers=False):
            self._model: Any = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=trust_remote_code
            )
        self._model.eval()
        self.config: Any = self._model.config
        self._bfloat16 = bfloat16
        self._weights = Weights(source, self._model.all_tied_weights_keys)
        self._layers: Any = self.decoder.layers
        self.count = len(self._layers)
        self.tied: bool = config.get_text_config().tie_word_embeddings
        self._names = {module: name for name, module in self._model.named_modules()}
        self._calls: list[dict[str, Any]] = []

    @property
    def embedding(self) -> nn.Module:
        """The embedding, without weights."""
        module: nn.Module = self._model.get_input_embeddings()
        return module

    @property
    def decoder(self) -> Any:
        """The model without its head, without weights."""
        return self._model.get_decoder()

    def start(self, windows: Tensor, embedding: Tensor | None = None, **arguments: Any) -> Tensor:
        """Compute the first layer's inputs `[windows, length, hidden]` for token ids.

        Also records the other arguments of each layer.

        Args:
            windows: token ids `[windows, length]`.
            embedding: weight of the embedding to compute with instead of its own.
            arguments: further arguments of the model.
        """
        import torch

        outside = [
            module for module in self._model.modules() if not self._inside_layer_or_head(module)
        ]
        for module in outside:
            self._fill(module, recurse=False)
        embedded = self._model.get_input_embeddings()
        if embedding is not None:
            embedded.weight.data = embedding
        calls: list[dict[str, Any]] = [{} for _ in range(self.count)]
        first: list[Tensor] = []

        def record(index: int, hidden: Tensor, keywords: dict[str, Any]) -> Tensor:
            calls[index] = keywords
            if index == 0:
                first.append(hidden)
            if index == self.count - 1:
                raise _StopError
            return hidden

        with self._instead_of_layers(record):
            for window in windows:
                self._forward(input_ids=window[None], **arguments)
        self._calls = calls
        # The weight alone: other tensors of an embedding are not in the files.
        embedded.weight = torch.nn.Parameter(embedded.weight.to("meta"), requires_grad=False)
        return torch.cat(first)

    def run(self, index: int, hidden: Tensor) -> Iterator[Tensor]:
        """Run a layer whose weights are loaded on hidden states `[windows, length, hidden]`.

        Yields:
            The layer's outputs, in batches of windows.
        """
        import torch

        for batch in torch.split(hidden, AT_A_TIME):
            with torch.no_grad():
                output = self.outputs(index, batch)
            yield output

    def outputs(self, index: int, batch: Tensor) -> Tensor:
        """Compute a loaded layer's outputs for a batch of windows; they can be differentiated."""
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            output = self._layers[index](batch, **self._calls[index])
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result.float()

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """Load the weights of a decoder layer for the duration of the block."""
        layer = self._layers[index]
        self._fill(layer, recurse=True)
        try:
            yield layer
        finally:
            layer.to("meta")

    @contextmanager
    def head(self, weight: Tensor | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
        """Load the head's weights for the duration of the block.

        Args:
            weight: weight to compute with instead of the head's own.

        Yields:
            A function that computes logits `[tokens, vocabulary]` from the last layer's outputs
            `[tokens, hidden]`, as the model does it: with its last norm, and whatever it does to
            logits. They can be differentiated.
        """
        head = self._model.get_output_embeddings()
        self._fill(head, recurse=True)
        if weight is not None:
            head.weight.data = weight

        def logits(hidden: Tensor) -> Tensor:
            with self._instead_of_layers(lambda *_: hidden[None]):
                output = self._model(inputs_embeds=hidden.detach()[None], use_cache=False)
            result: Tensor = output.logits[0]
            return result

        try:
            yield logits
        finally:
            head.to("meta")

    def head_inputs(self, hidden: Tensor) -> Iterator[Tensor]:
        """Compute the head's inputs from the last layer's outputs `[windows, length, hidden]`.

        Yields:
            The inputs for each window, `[1, length, hidden]`.
        """
        inputs: list[Tensor] = []

        def stop(_module: Any, arguments: tuple[Tensor, ...]) -> None:
            inputs.append(arguments[0])
            raise _StopError

        hook = self._model.get_output_embeddings().register_forward_pre_hook(stop)
        try:
            for window in hidden:
                with self._instead_of_layers(lambda *_, last=window: last[None]):
                    self._forward(inputs_embeds=window[None])
                yield inputs.pop()
        finally:
            hook.remove()

    def head_weight(self) -> Tensor:
        """Return the head's weight, float32 `[vocabulary, hidden]`."""
        return self._weights[f"{self._names[self._model.get_output_embeddings()]}.weight"]

    def _inside_layer_or_head(self, module: nn.Module) -> bool:
        name = self._names[module]
        layers = self._names[self._layers] + "."
        return name.startswith(layers) or module is self._model.get_output_embeddings()

    def _fill(self, module: nn.Module, *, recurse: bool) -> None:
        prefix = self._names[module]
        # Parameters, and those buffers that are stored.
        names = [name for name in module.state_dict() if recurse or "." not in name]
        values = {name: self._weights[f"{prefix}.{name}".lstrip(".")] for name in names}
        module.load_state_dict(values, strict=False, assign=True)
        module.requires_grad_(False)

    def _forward(self, **inputs: Any) -> None:
        import torch

        try:
            # Not in inference mode: what is recorded may become part of a differentiation.
            with torch.no_grad():
                self._model(**inputs, use_cache=False)
        except _StopError:
            return

    @contextmanager
    def _instead_of_layers(
        self, function: Callable[[int, Tensor, dict[str, Any]], Tensor]
    ) -> Iterator[None]:
        """Replace each layer with a function of its index, hidden states and keyword arguments.

        Models pass the hidden states to their layers first, and everything else by keyword.
        """

        def replacement(index: int) -> Callable[..., Tensor]:
            return lambda hidden, **keywords: function(index, hidden, keywords)

        with ExitStack() as undo:
            for index, layer in enumerate(self._layers):
                layer.forward = replacement(index)
                undo.callback(delattr, layer, "forward")
            yield


class Weights:
    """Tensors of a folder's safetensors files by name, read on access.

    Of two tied tensors the files may have either one.
    """

    def __init__(self, source: Path, tied: Mapping[str, str] | None = None) -> None:
        from safetensors import safe_open

        self._files: dict[str, Any] = {}
        for path in checkpoint.files(source):
            file: Any = safe_open(path, framework="pt")
            self._files.update(dict.fromkeys(file.keys(), file))
        tied = tied or {}
        self._others = {**tied, **{other: name for name, other in tied.items()}}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __getitem__(self, name: str) -> Tensor:
        stored = name if name in self._files else self._others.get(name, name)
        if stored not in self._files:
            raise ValueError(f"the model's files have no tensor {name}")
        tensor: Tensor = self._files[stored].get_tensor(stored)
        return tensor.float()
