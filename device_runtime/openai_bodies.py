"""The bodies of OpenAI's requests: fields, types and bounds."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a turn; only text is known."""

    type: Literal["text"]
    text: str


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a streamed answer has beside its text."""

    include_usage: bool | None = None


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of an answer."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    schema: Any = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of request have. The descriptions are those of the API's document."""

    model: Annotated[
        str | None,
        Meta(description="The device's model, or `MODEL:ADAPTER`; without it, the model."),
    ] = None
    stream: Annotated[bool | None, Meta(description="Answer in server-sent events.")] = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[
        _Tokens | None,
        Meta(description="Most tokens of an answer; the model's context may end it earlier."),
    ] = None
    n: Annotated[
        Annotated[int, Meta(ge=1, le=16)] | None,
        Meta(description="How many answers; they are given one after the other."),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(
            description="0 takes the most likely token each time. That is what a request gets "
            "which has none of temperature, top_p, top_k, min_p and seed; with one of them, it "
            "is 1."
        ),
    ] = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="Sample from this many most likely tokens; 0 for all."),
    ] = None
    min_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Sample from tokens at least this share as likely as the likeliest."),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
        Meta(description="Same seed, same answer."),
    ] = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(gt=0, le=10)] | None,
        Meta(description="Above 1, tokens of prompt and answer become less likely."),
    ] = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None,
        Meta(description="Added to the scores of tokens, which are named by number."),
    ] = None
    num_beams: Annotated[
        Annotated[int, Meta(ge=1, le=8)] | None,
        Meta(description="Width of a beam search; neither streamed nor sampled."),
    ] = None
    stop: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=4)]
        | None,
        Meta(description="Texts before which the answer ends."),
    ] = None


class ChatBody(Sampling, frozen=True, kw_only=True):
    """A request for a chat completion."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_completion_tokens: Annotated[
        _Tokens | None, Meta(description="Another name of max_tokens.")
    ] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class CompletionBody(Sampling, frozen=True, kw_only=True):
    """A request for a completion of raw text."""

    prompt: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1)]
    )
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
