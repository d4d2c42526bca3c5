"""Embeddings from the hidden states of the model that answers: their mean over a text's tokens."""

import time
from collections.abc import Callable, Generator
from functools import partial

import numpy as np
import numpy.typing as npt

from device_runtime.errors import EngineError
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import (
    GenerationRequest,
    NoMemoryNowError,
    OutOfMemoryError,
    TokenIds,
)
from device_runtime.inference.genai_model import ENGINE_HINT, GenAIModel, failure
from device_runtime.inference.kv_cache import KvCache, Slot, Tokens, step
from device_runtime.inference.onnx_embedder import Vector, last_chunk, of_length_1, packed
from device_runtime.memory import PROMPT_STEP

Sum = npt.NDArray[np.float64]

MEMORY_HINT = "Send shorter texts, or stop other programs on the device."


class HiddenStatesEmbedder:
    """Implements `Embedder`. Texts go one by one through the model, each in a KV cache of its own.

    Args:
        model: the model.
        cache: the KV caches, which answers and texts share the memory of.
        output: output of the graph with the states, float32 [batch, tokens, width].
    """

    def __init__(self, model: GenAIModel, cache: KvCache, output: str) -> None:
        self._model = model
        self._cache = cache
        self._output = output

    def embed(
        self, request: EmbeddingRequest, cancelled: Callable[[], bool]
    ) -> Generator[EmbeddingChunk]:
        """See `Embedder.embed`. Empty chunks between two steps let answers go on."""
        texts = [self._encoded(text) for text in request.inputs]
        yield EmbeddingChunk()
        started = time.monotonic()
        try:
            for tokens in texts:
                mean = yield from self._mean(tokens, cancelled)
                if mean is None:
                    break
                vector = of_length_1(of_length_1(mean)[: request.dimensions])
                yield EmbeddingChunk(vector=packed(vector))
        except (RuntimeError, MemoryError) as error:
            raise failure(error, MEMORY_HINT) from None
        yield last_chunk(texts, started)

    def _encoded(self, text: str | tuple[int, ...]) -> Tokens:
        """Encode a text.

        Raises:
            RequestError: it has no tokens, or one that the model does not know.
            PromptTooLongError: it is longer than the context.
            OutOfMemoryError: its KV cache is larger than the memory for all of them.
        """
        prompt = text if isinstance(text, str) else TokenIds(text)
        tokens = self._model.prompts.encode(
            GenerationRequest(prompt="", max_tokens=0), prompt
        ).tokens
        if not self._cache.fits(len(tokens)):
            raise OutOfMemoryError(
                f"a text of {len(tokens)} tokens needs more KV cache than this device has",
                hint="Split the text.",
            )
        return tokens

    def _mean(
        self, tokens: Tokens, cancelled: Callable[[], bool]
    ) -> Generator[EmbeddingChunk, None, Vector | None]:
        """Prefill a text; return the mean of its states, or None once the client is gone.

        Raises:
            NoMemoryNowError: other programs hold the memory.
        """
        slot = None
        while not cancelled() and (slot := self._slot(len(tokens))) is None:
            # Running requests hold the memory.
            yield EmbeddingChunk()
        if slot is None:
            return None
        try:
            total: Sum = np.zeros(1)
            while len(slot.tokens) < len(tokens):
                if cancelled():
                    return None
                total = total + self._prefill(slot, tokens)
                yield EmbeddingChunk()
            return (total / len(tokens)).astype(np.float32)
        finally:
            self._cache.drop(slot)

    def _slot(self, length: int) -> Slot | None:
        capacity = max(length, self._model.min_capacity)
        slot = self._cache.reserve(capacity, "", partial(self._model.generator, capacity, ""))
        if slot is None and self._cache.idle:
            raise NoMemoryNowError(
                "the device has too little free memory for this text", hint=MEMORY_HINT
            )
        return slot

    def _prefill(self, slot: Slot, tokens: Tokens) -> Sum:
        """Prefill the next chunk of a text; return the sum of its states."""
        rest = tokens[len(slot.tokens) :]
        most = len(rest) if self._model.at_once(len(tokens)) else PROMPT_STEP
        chunk = rest[: step(len(rest), most)]
        slot.append(chunk)
        states = slot.generator.get_output(self._output)[0]
        if len(states) != len(chunk):
            raise EngineError("the model does not give all hidden states", hint=ENGINE_HINT)
        total: Sum = states.sum(0, dtype=np.float64)
        return total
