"""The embedding model of a release in ONNX Runtime: loaded when it is first needed."""

import time
from collections.abc import Callable, Generator, Sequence, Sized
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_runtime import memory
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import NoMemoryNowError, PromptTooLongError, Usage
from device_runtime.inference.onnx_arrays import around
from device_runtime.inference.onnx_session import Binding, OnnxSession
from device_runtime.processor import cores
from device_runtime.tokenizer.tokenizer import Tokenizer

Vector = npt.NDArray[np.float32]

_HINT = "edgepack-runtime doctor reports what is missing or damaged."


class EmbeddingGraph:
    """A graph: input `input_ids`, int64 [1, tokens]; output `embedding`, float32 [1, width]."""

    def __init__(self, file: Path, *, width: int, threads: int) -> None:
        """Load it.

        Args:
            file: the ONNX file.
            width: length of the output.
            threads: number of ONNX Runtime threads; 0 for its own choice.

        Raises:
            RuntimeError: ONNX Runtime is missing, or the graph does not load.
        """
        self._session = OnnxSession(file, threads=threads)
        self._result: Vector = np.zeros((1, width), np.float32)
        self._binding = Binding({"input_ids": None}, {"embedding": around(self._result)})

    def run(self, tokens: Sequence[int]) -> Vector:
        """Return the vector of a text, [width].

        Raises:
            RuntimeError: the graph fails.
        """
        given = np.array([tokens], np.int64)
        self._binding.inputs.set("input_ids", around(given))
        self._session.run(self._binding)
        vector: Vector = self._result[0].copy()
        return vector


class OnnxEmbedder:
    """Implements `Embedder`. Texts go one by one through the graph: none depends on another.

    Args:
        folder: folder with the graph and the tokenizer.
        dimensions: length of its vectors.
        vocabulary: number of tokens that it knows.
        max_tokens: longest text, tokens.
        memory_bytes: memory that it needs, bytes.
        threads: number of ONNX Runtime threads; 0 for one a core.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dimensions: int,
        vocabulary: int,
        max_tokens: int,
        memory_bytes: int,
        threads: int,
    ) -> None:
        self._folder = folder
        self._dimensions = dimensions
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._memory_bytes = memory_bytes
        self._threads = threads or cores()
        self._loaded: tuple[Tokenizer, EmbeddingGraph] | None = None

    def embed(
        self, request: EmbeddingRequest, cancelled: Callable[[], bool]
    ) -> Generator[EmbeddingChunk]:
        """See `Embedder.embed`."""
        tokenizer, graph = self._load()
        texts = [
            self._checked(tokenizer.encode(text, special=True) if isinstance(text, str) else text)
            for text in request.inputs
        ]
        yield EmbeddingChunk()
        started = time.monotonic()
        for tokens in texts:
            if cancelled():
                break
            yield EmbeddingChunk(vector=_vector(graph, tokens, request.dimensions))
        yield last_chunk(texts, started)

    def _load(self) -> tuple[Tokenizer, EmbeddingGraph]:
        if self._loaded is None:
            if memory.available() < self._memory_bytes:
                raise NoMemoryNowError(
                    f"the embedding model needs {self._memory_bytes >> 20} MiB of memory, "
                    f"{memory.available() >> 20} MiB are free",
                )
            try:
                graph = EmbeddingGraph(
                    self._folder / "model.onnx", width=self._dimensions, threads=self._threads
                )
            except RuntimeError as error:
                raise EngineError(
                    f"the embedding model does not load: {error}", hint=_HINT
                ) from None
            self._loaded = Tokenizer(self._folder), graph
        return self._loaded

    def _checked(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens of a text that the model can take.

        Raises:
            RequestError: there are none, or the model does not know one.
            PromptTooLongError: there are too many.
        """
        limit = self._max_tokens
        if not tokens:
            raise RequestError("a text has no tokens")
        if len(tokens) > limit:
            raise PromptTooLongError(
                f"This model's maximum context length is {limit} tokens, however a text has "
                f"{len(tokens)} tokens",
                hint="Split the text.",
            )
        if max(tokens) >= self._vocabulary:
            raise RequestError(
                f"the model has no token {max(tokens)}: its last is {self._vocabulary - 1}"
            )
        return tokens


def last_chunk(texts: Sequence[Sized], started: float) -> EmbeddingChunk:
    """Return the chunk after all vectors, with the usage.

    Args:
        texts: tokens of the texts.
        started: time at which the first one began, of the clock that never jumps, seconds.
    """
    usage = Usage(
        prompt_tokens=sum(map(len, texts)),
        completion_tokens=0,
        first_token_s=time.monotonic() - started,
        decode_s=0,
    )
    return EmbeddingChunk(usage=usage)


def _vector(graph: EmbeddingGraph, tokens: Sequence[int], dimensions: int | None) -> bytes:
    """Return the vector of a text, float32.

    Raises:
        EngineError: the model fails, or computes something that is not a vector.
    """
    try:
        vector = graph.run(tokens)
    except RuntimeError as error:
        raise EngineError(f"the embedding model failed: {error}", hint=_HINT) from None
    if dimensions is not None:
        vector = of_length_1(vector[:dimensions])
    return packed(vector)


def of_length_1(vector: Vector) -> Vector:
    """Scale a vector to length 1."""
    scaled: Vector = vector / np.sqrt((vector * vector).sum())
    return scaled


def packed(vector: Vector) -> bytes:
    """Return the bytes of a vector, float32, little-endian.

    Raises:
        EngineError: a value is not finite.
    """
    if not np.isfinite(vector).all():
        raise EngineError("the embedding model computed values that are not finite", hint=_HINT)
    return vector.astype("<f4").tobytes()
