"""The endpoints that embed texts: `/v1/embeddings`, and what those of other APIs share with it."""

import array
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from device_runtime.api.embedding_types import (
    MAX_INPUTS,
    EmbeddingBody,
    EmbeddingList,
    EmbeddingObject,
    EmbeddingUsage,
)
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.generation import Generation, response
from device_runtime.api.outcomes import ApiEndpoint
from device_runtime.api.request_types import IGNORED
from device_runtime.api.served_model import ServedModel
from device_runtime.api.streaming import while_connected
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.status.report import Outcome


class Embedder(Protocol):
    """A source of vectors: the supervisor, or a fake."""

    def embed(self, request: EmbeddingRequest) -> AsyncGenerator[EmbeddingChunk]:
        """See `Supervisor.embed`."""
        ...


class ParsedEmbedding(msgspec.Struct, frozen=True, kw_only=True):
    """A request for embeddings, checked and translated.

    Attributes:
        request: the request to the embedding model.
        answer: writes the answer from the vectors and the number of tokens.
    """

    request: EmbeddingRequest
    answer: Callable[[list[bytes], int], msgspec.Struct]


class Embeddings:
    """Answers requests for embeddings, in any of the APIs.

    Args:
        embedder: source of the vectors.
        generation: the endpoints beside it, with which it shares limits and counters.
    """

    def __init__(self, embedder: Embedder, generation: Generation) -> None:
        self._embedder = embedder
        self._generation = generation

    def route(
        self, path: str, label: ApiEndpoint, parse: Callable[[bytes, ServedModel], ParsedEmbedding]
    ) -> Route:
        """Return the route of an endpoint.

        Args:
            path: its path.
            label: its label in the metrics.
            parse: parses the body of a request; raises ApiError.
        """

        async def handle(request: Request) -> Response:
            observed = self._generation.observed(request, label, "input")
            try:
                parsed = parse(await self._generation.body(request), self._generation.served)
            except ApiError:
                observed.end(Outcome.REJECTED)
                raise
            chunks = observed.chunks(self._embedder.embed(parsed.request))
            try:
                vectors, tokens = await while_connected(request, _collect(chunks))
            finally:
                await chunks.aclose()
            return response(parsed.answer(vectors, tokens))

        return Route(path, handle, methods=["POST"])


async def _collect(chunks: AsyncIterator[EmbeddingChunk]) -> tuple[list[bytes], int]:
    vectors, tokens = [], 0
    async for chunk in chunks:
        if chunk.vector:
            vectors.append(chunk.vector)
        if chunk.usage is not None:
            tokens = chunk.usage.prompt_tokens
    return vectors, tokens


def parse_embeddings(data: bytes, served: ServedModel) -> ParsedEmbedding:
    """Parse the body of a request to OpenAI's endpoint.

    Args:
        data: JSON.
        served: the models of the device.

    Raises:
        ApiError: a field is invalid, or the model does not exist; the error names the field.
    """
    fields = decode(data)
    check_fields(fields, EmbeddingBody, {}, ignored=IGNORED)
    body = convert(fields, EmbeddingBody)
    name = check_model(served, body.model, body.dimensions)

    def encoded(vector: bytes) -> list[float] | str:
        if body.encoding_format == "base64":
            return base64.b64encode(vector).decode()
        return numbers(vector)

    def answer(vectors: list[bytes], tokens: int) -> EmbeddingList:
        data = [EmbeddingObject(index, encoded(vector)) for index, vector in enumerate(vectors)]
        return EmbeddingList(data, name, EmbeddingUsage(tokens, tokens))

    request = EmbeddingRequest(inputs=check_inputs(body.input), dimensions=body.dimensions)
    return ParsedEmbedding(request=request, answer=answer)


def check_model(served: ServedModel, model: str | None, dimensions: int | None) -> str:
    """Check a request's model, and the length of its vectors; return the model's name.

    Raises:
        ApiError: the embedding model does not exist, or its vectors are shorter.
    """
    if served.embedding is None:
        raise ApiError(
            "this device has no embedding model. Build its bundle with edgepack build "
            "--embedding-model MODEL",
            status=404,
            param="model",
            code="model_not_found",
        )
    name = served.embedding.model.name
    if model in served.models:
        raise _invalid("model", f"{model!r} makes no embeddings; {name!r} does")
    if model not in (None, name):
        raise ApiError(
            f"the model {model!r} does not exist; the embedding model is {name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    if dimensions is not None and dimensions > served.embedding.dimensions:
        raise _invalid("dimensions", f"{name} has {served.embedding.dimensions} dimensions")
    return name


def numbers(vector: bytes) -> list[float]:
    """Convert a vector to numbers."""
    return array.array("f", vector).tolist()


def check_inputs(given: str | list[Any]) -> tuple[str | tuple[int, ...], ...]:
    """Return the texts of a request, one or several, as text or token ids.

    Raises:
        ApiError: there are none or too many, one is empty, or they are of several kinds.
    """
    if given == "" or given == []:
        raise _invalid("input", "must not be empty")
    if isinstance(given, str):
        return (given,)
    kinds = {type(text) for text in given}
    if len(kinds) > 1:
        raise _invalid("input", "must be texts, token ids or lists of token ids, not several kinds")
    if kinds == {int}:
        return (tuple(given),)
    if len(given) > MAX_INPUTS:
        raise _invalid("input", f"must have at most {MAX_INPUTS} texts; it has {len(given)}")
    for number, text in enumerate(given):
        if not text:
            raise _invalid(f"input[{number}]", "must not be empty")
    return tuple(text if isinstance(text, str) else tuple(text) for text in given)


def _invalid(param: str, reason: str) -> ApiError:
    return ApiError(f"{param}: {reason}", param=param, code="invalid_value")
