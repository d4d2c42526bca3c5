"""Ollama's endpoint that embeds texts: `/api/embed`."""

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from device_runtime.api.embeddings import ParsedEmbedding, check_inputs, check_model, numbers
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.ollama.requests import LATEST
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.embedding import EmbeddingRequest

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"truncate": (False,)}
"""Unsupported fields, and the values besides null that request nothing: no text is cut."""

IGNORED = frozenset({"options", "keep_alive"})


class OllamaEmbedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for the vectors of texts."""

    model: Annotated[str, Meta(description="The embedding model; `:latest` may follow.")]
    input: Annotated[str | list[str], Meta(description="A text, or several.")]
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=2**16)] | None,
        Meta(description="As in OpenAI's API."),
    ] = None


class OllamaEmbedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of all texts, in their order."""

    model: str
    embeddings: list[list[float]]
    total_duration: Annotated[int, Meta(description="From the request to the end.")]
    load_duration: int = 0
    prompt_eval_count: Annotated[int, Meta(description="Tokens of all texts.")]


def parse_ollama_embed(data: bytes, served: ServedModel) -> ParsedEmbedding:
    """Parse the body of a request.

    Args:
        data: JSON.
        served: the models of the device.

    Raises:
        ApiError: a field is invalid, or the model does not exist; the error names the field.
    """
    started = time.monotonic_ns()
    fields = decode(data)
    check_fields(fields, OllamaEmbedBody, WITHOUT_EFFECT, ignored=IGNORED)
    body = convert(fields, OllamaEmbedBody)
    check_model(served, body.model.removesuffix(LATEST), body.dimensions)

    def answer(vectors: list[bytes], tokens: int) -> OllamaEmbedResponse:
        return OllamaEmbedResponse(
            model=body.model,
            embeddings=[numbers(vector) for vector in vectors],
            total_duration=time.monotonic_ns() - started,
            prompt_eval_count=tokens,
        )

    request = EmbeddingRequest(inputs=check_inputs(body.input), dimensions=body.dimensions)
    return ParsedEmbedding(request=request, answer=answer)
