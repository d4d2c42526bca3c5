"""Sequences of a model in ONNX Runtime GenAI: a generator each."""

from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.inference.genai_library import LONG_ROPE_FROM, Model
from device_runtime.inference.genai_objects import Adapters, Generator
from device_runtime.inference.kv_cache import Tokens

_CACHES = ("past_key_names", "past_value_names")
_STATES = ("past_conv_names", "past_recurrent_names")


class GenAISequences:
    """Implements `Sequences`."""

    rows = 0

    def __init__(
        self,
        model: Model,
        decoder: dict[str, Any],
        least: int,
        *,
        sees: bool,
        long_rope: bool,
    ) -> None:
        """Measure logits, KV cache and states in a first run, of two tokens.

        Args:
            model: the model.
            decoder: `model.decoder` of its genai_config.json.
            least: smallest capacity of a KV cache, tokens.
            sees: whether its prompts can have images.
            long_rope: whether it may have long rotary factors.
        """
        self._model = model
        self._adapters = Adapters(model)
        self._sees = sees
        self._long_rope = long_rope
        generator = self.generator(least, "")
        generator.append_tokens(np.zeros(2, np.int32))
        _, rows, self.vocabulary = generator.get_output("logits").shape
        self.all_logits: bool = rows > 1
        cache, self.state_bytes = (
            sum(
                _input_bytes(generator, decoder["inputs"].get(name, ""), layer)
                for name in names
                for layer in range(decoder["num_hidden_layers"])
            )
            for names in (_CACHES, _STATES)
        )
        self.token_bytes = cache // least

    def load_adapter(self, file: Path, name: str) -> None:
        """See `Sequences.load_adapter`."""
        self._adapters.load(file, name)

    def generator(self, capacity: int, adapter: str, num_beams: int = 1) -> Any:
        """See `Sequences.generator`."""
        generator = Generator(
            self._model,
            max_length=capacity,
            do_sample=False,
            num_beams=num_beams,
            early_stopping=True,
        )
        if adapter:
            generator.set_active_adapter(self._adapters, adapter)
        if self._sees:
            return _OneWay(generator)
        return _LongRope(generator) if self._long_rope else generator


class _OneWay:
    """A generator of a model that sees, which only goes on.

    The engine refuses to rewind some of them; of the others, it forgets the tokens and keeps their
    KV cache.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def rewind_to(self, length: int) -> None:
        raise RuntimeError(f"this model cannot rewind, not even to token {length}")


class _LongRope:
    """A generator of a Phi-3 that has long rotary factors.

    The engine changes to them when it decodes a token beyond their beginning, for all tokens
    before it as well. It does not when it is given tokens.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def append_tokens(self, tokens: Tokens) -> None:
        before = self._generator.get_sequence(0)
        if 0 < len(before) <= LONG_ROPE_FROM < len(before) + len(tokens):
            tokens = np.array([*before, *tokens.tolist()], np.int32)
            self._generator.rewind_to(0)
        self._generator.append_tokens(tokens)


def _input_bytes(generator: Any, pattern: str, layer: int) -> int:
    """Return the size of a layer's input; 0 for a layer without it, or where it is not reported."""
    try:
        return int(generator.get_input(pattern % layer).nbytes) if pattern else 0
    except RuntimeError:
        return 0
