"""The body of a request for embeddings, and its answer: fields, types and bounds."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_INPUTS = 2048
"""Texts of a request, as in OpenAI's API."""

_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for the vectors of texts."""

    input: Annotated[
        str | list[str | _Token | list[_Token]],
        Meta(
            description=f"A text, up to {MAX_INPUTS} texts, the token ids of a text, or a list of "
            "such lists. Token ids are taken as they are, without the special tokens that the "
            "model expects around a text."
        ),
    ]
    model: Annotated[
        str | None, Meta(description="The device's embedding model (the default).")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Meta(description="Numbers (the default), or base64 of float32, little-endian."),
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=2**16)] | None,
        Meta(
            description="Return this many numbers of each vector, scaled to length 1; only for "
            "models that are trained for it (Matryoshka)."
        ),
    ] = None


class EmbeddingObject(msgspec.Struct, frozen=True, tag_field="object", tag="embedding"):
    """The vector of a text."""

    index: Annotated[int, Meta(description="Number of the text, from 0.")]
    embedding: Annotated[
        list[float] | str, Meta(description="Numbers, or base64 of float32, little-endian.")
    ]


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Token counts of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """The vectors of all texts, in their order."""

    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
