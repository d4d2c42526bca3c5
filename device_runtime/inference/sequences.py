"""The interfaces of what holds the KV caches of a model, and decodes with them."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Generator(Protocol):
    """The part of `onnxruntime_genai.Generator` that is used here."""

    def append_tokens(self, tokens: npt.NDArray[np.int32]) -> None:
        """Run the model over tokens, all at once."""

    def join_step(self) -> bool:
        """Have the last token take part in the next step of any generator.

        Returns:
            Whether it does; otherwise the model has seen it, or takes a run for it alone.
        """

    def generate_next_token(self) -> None:
        """Decode the next token."""

    def get_next_tokens(self) -> npt.NDArray[np.int32]:
        """Return the token that was decoded last."""

    def set_inputs(self, inputs: Any) -> None:
        """Prefill a prompt with images."""

    def keep_from(self, length: int) -> None:
        """Promise that no rewind ends before this position, unless at the beginning."""

    def rewind_to(self, length: int) -> None:
        """Discard all tokens from this position on."""

    def snapshot_state(self) -> None:
        """Keep the states of layers without a KV cache, so that a rewind can end here."""


class Sequences(Protocol):
    """The sequences of a model.

    Attributes:
        all_logits: True if a run gives the logits behind each of its tokens; False if only behind
            the last one.
        rows: most sequences at a time; 0 for any number.
        state_bytes: size of the states of layers that have one instead of a KV cache.
        token_bytes: size of the KV cache of one token; 0 where the model does not report it.
        vocabulary: size of the vocabulary, tokens.
    """

    all_logits: bool
    rows: int
    state_bytes: int
    token_bytes: int
    vocabulary: int

    def load_adapter(self, file: Path, name: str) -> None:
        """Load an adapter, and give it a name.

        Raises:
            RuntimeError: it does not load.
        """
        ...

    def generator(self, capacity: int, adapter: str, num_beams: int = 1) -> Any:
        """Create a generator (`Generator`), greedy, or for a beam search.

        Args:
            capacity: maximum length of the sequence, tokens.
            adapter: name of its adapter; empty for none.
            num_beams: width of the beam search; 1 for none.
        """
        ...
