"""The interface of what holds the KV caches of a model, and decodes with them."""

from pathlib import Path
from typing import Any, Protocol


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
        """Create a generator (`kv_cache.Generator`), greedy, or for a beam search.

        Args:
            capacity: maximum length of the sequence, tokens.
            adapter: name of its adapter; empty for none.
            num_beams: width of the beam search; 1 for none.
        """
        ...
