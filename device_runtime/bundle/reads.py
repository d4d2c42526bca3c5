"""The part of a manifest that tells what a decode step reads from memory."""

from device_runtime.bundle.fields import Bytes, Count
from device_runtime.bundle.quantization import Struct


class Reads(Struct, frozen=True, kw_only=True):
    """Memory that a decode step of one answer reads, bytes.

    Attributes:
        weights: weights, and states of layers that have them instead of a KV cache. Of an embedding
            table, only the rows that are looked up would be read, and they do not count; a table
            that is the head's weight as well does. Of a mixture of experts, those of one token.
        cache: KV cache of a token in the layers that attend to the whole context.
        windowed_cache: that in layers that attend to the last tokens alone.
        window: number of these tokens.
    """

    weights: Bytes
    cache: Bytes
    windowed_cache: Bytes = 0
    window: Count = 0

    def at(self, context: int) -> int:
        """Return the bytes that a step reads after a context of this many tokens."""
        windowed = self.windowed_cache * min(context, self.window)
        return self.weights + self.cache * context + windowed
