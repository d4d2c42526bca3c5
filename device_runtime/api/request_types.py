"""The fields that the bodies of requests share: types and bounds.

The descriptions of fields appear in the API's document.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

IGNORED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""Fields that do not affect the answer: names, and wishes about its speed."""

STREAM_OPTIONS_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"include_obfuscation": (False,)}
"""Unsupported options of a stream, and the values besides null that request nothing."""

MAX_STOPS = 16
"""Most stop strings of a request: OpenAI's clients send four at most, evaluations more."""

_TokenId = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(?!\n)$")]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a streamed answer."""

    include_usage: Annotated[bool | None, Meta(description="Send a last chunk with the usage.")] = (
        None
    )


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both types of request share."""

    model: Annotated[
        str | None,
        Meta(description="The device's model (the default), or `MODEL:ADAPTER`."),
    ] = None
    stream: Annotated[
        bool | None,
        Meta(
            description="Stream the answer as server-sent events. An event holds what was "
            "generated in 30 ms, often several tokens; count them by usage."
        ),
    ] = None
    stream_options: Annotated[
        StreamOptions | None, Meta(description="Ignored unless the answer is streamed.")
    ] = None
    max_tokens: Annotated[
        Tokens | None,
        Meta(description="Maximum tokens of an answer; a full context ends it earlier."),
    ] = None
    n: Annotated[
        Annotated[int, Meta(ge=1, le=16)] | None,
        Meta(description="Number of answers; they are generated one after the other."),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(
            description="0 picks the most likely token each time. The default is 0, or 1 if the "
            "request has top_p, top_k, min_p or seed."
        ),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Sample from the most likely tokens that add up to this probability."),
    ] = None
    top_k: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="Sample from this many of the most likely tokens; 0 for all."),
    ] = None
    min_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="Sample from tokens whose probability is at least this fraction of the "
            "most likely token's."
        ),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
        Meta(description="The same seed gives the same answer."),
    ] = None
    frequency_penalty: Annotated[
        _Penalty | None,
        Meta(description="Subtracted from a token's logit for each occurrence in the answer."),
    ] = None
    presence_penalty: Annotated[
        _Penalty | None,
        Meta(description="Subtracted from a token's logit if it occurs in the answer."),
    ] = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(ge=0.01, le=10)] | None,
        Meta(description="Above 1, tokens of the prompt and the answer become less likely."),
    ] = None
    logit_bias: Annotated[
        dict[_TokenId, Annotated[float, Meta(ge=-100, le=100)]] | None,
        Meta(description="Added to the logits of tokens, by token id."),
    ] = None
    num_beams: Annotated[
        Annotated[int, Meta(ge=1, le=8)] | None,
        Meta(description="Width of a beam search, which is neither streamed nor sampled."),
    ] = None
    stop: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)]
        | None,
        Meta(description="Strings before which the answer ends."),
    ] = None


class HoldBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hold on updates."""

    reason: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*(?!\n)$",
            description="The reason, one line, for those who try to install.",
        ),
    ]
    seconds: Annotated[
        int, Meta(ge=1, le=86400, description="Time after which the hold ends by itself.")
    ]
