"""The body of a raw completion request: fields, types and bounds."""

from typing import Annotated, Any

from msgspec import Meta

from device_runtime.api.request_types import Sampling

COMPLETION_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"best_of": (1,), "suffix": ("",)}
"""Unsupported fields, and the values besides null that request nothing."""


MAX_PROMPTS = 128
"""Most prompts of a request."""

_Text = Annotated[str, Meta(min_length=1)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Tokens = Annotated[list[_TokenId], Meta(min_length=1)]


class CompletionBody(Sampling, frozen=True, kw_only=True):
    """A request for a completion of raw text."""

    prompt: Annotated[
        _Text | Annotated[list[_Text | _TokenId | _Tokens], Meta(min_length=1)],
        Meta(
            description="The text to continue, or its token ids; no chat template is applied. "
            f"Several prompts, at most {MAX_PROMPTS}, are answered one after the other: the "
            "answers to the first have the first indexes."
        ),
    ]
    max_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="As for a chat; 0 generates nothing, for the prompt's `logprobs` alone."),
    ] = None
    echo: Annotated[
        bool | None,
        Meta(
            description="Begin each answer with its prompt, also in `logprobs`; a token that ends "
            "the answer is listed there too."
        ),
    ] = None
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(
            description="Return the log probability of each token, and of this many of the most "
            "likely tokens at its position."
        ),
    ] = None
