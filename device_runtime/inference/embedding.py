"""The interface of an embedding model: texts in, vectors out.

The structs here are sent between the two processes, so they hold plain data only.
"""

from collections.abc import Callable, Generator
from typing import ClassVar, Protocol

import msgspec

from device_runtime.inference.engine import Usage


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Texts to embed.

    Attributes:
        inputs: texts, or token ids that are taken as they are.
        dimensions: length of the vectors, which are cut and scaled to length 1 again; None for the
            model's own vectors.
        quicker: the way to a request that takes less time, for hints.
    """

    quicker: ClassVar[str] = "Send fewer or shorter texts"
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None


class EmbeddingChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """The vector of the next text.

    Attributes:
        vector: the vector, float32, little-endian; empty in the first and the last chunk.
        usage: usage of the request; only in the last chunk.
    """

    vector: bytes = b""
    usage: Usage | None = None

    @property
    def is_empty(self) -> bool:
        """True if the chunk tells nothing but that work goes on."""
        return not self.vector and self.usage is None


class Embedder(Protocol):
    """An embedding model, which is loaded when it is first needed."""

    def embed(
        self, request: EmbeddingRequest, cancelled: Callable[[], bool]
    ) -> Generator[EmbeddingChunk]:
        """Embed texts, one a step, in their order.

        The first chunk is empty and precedes all work: the request is accepted.

        Args:
            request: the texts.
            cancelled: polled before each text; once it returns True, the answer ends.

        Raises:
            RequestError: before the first chunk, if the model cannot take a text.
            NoMemoryNowError: before the first chunk, if the model does not fit into memory now.
            EngineError: the model does not load, or fails.
        """
        ...
