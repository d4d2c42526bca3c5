"""The body of a raw completion request: fields, types and bounds."""

from typing import Annotated, Any

from msgspec import Meta

from device_runtime.api.request_types import Sampling

COMPLETION_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"best_of": (1,), "suffix": ("",)}
"""Unsupported fields, and the values besides null that request nothing."""


class CompletionBody(Sampling, frozen=True, kw_only=True):
    """A request for a completion of raw text."""

    prompt: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1)],
        Meta(description="The text to continue; no chat template is applied."),
    ]
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(
            description="Return the log probability of each token, and of this many of the most "
            "likely tokens at its position."
        ),
    ] = None
