"""The objects of OpenAI's responses: they are what is encoded, sent and documented.

A field that can be absent defaults to `UNSET`, which msgspec omits; None is sent as null. A field
that names the type of its object (`object`, `type`, `role`) is the struct's tag.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Finish = Literal["stop", "length", "tool_calls"]

_Seconds = Annotated[int, Meta(description="Unix time by the device's clock, seconds.")]
_Index = Annotated[int, Meta(ge=0, description="Index of the answer, from 0.")]
_Finish = Annotated[
    Finish,
    Meta(
        description="`stop`: the model or a stop string ended the answer. `length`: it has "
        "`max_tokens`, or the context is full; JSON may be incomplete. `tool_calls`: it calls "
        "tools."
    ),
]


class ResponseMeta(msgspec.Struct, frozen=True):
    """The fields that all objects of one response begin with."""

    id: Annotated[str, Meta(description="Unique among the responses of this device.")]
    created: _Seconds
    model: Annotated[str, Meta(description="The model's name as in the request.")]
    system_fingerprint: Annotated[str, Meta(description="Changes with the release.")]


class TokensDetails(msgspec.Struct, frozen=True):
    """Details of a prompt's tokens."""

    cached_tokens: Annotated[
        int, Meta(description="Tokens reused from an earlier request, without prefill.")
    ]


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Details of the answers' tokens."""

    reasoning_tokens: Annotated[
        int, Meta(description="Tokens of thoughts, with those that begin and end them.")
    ]


class UsageObject(msgspec.Struct, frozen=True):
    """Tokens that a request used."""

    prompt_tokens: int
    completion_tokens: Annotated[
        int, Meta(description="Tokens of all answers, end tokens included.")
    ]
    total_tokens: int
    prompt_tokens_details: TokensDetails
    completion_tokens_details: CompletionTokensDetails


class Logprob(msgspec.Struct, frozen=True):
    """Log probability of a token, before temperature, penalties and bias."""

    token: Annotated[str, Meta(description="The token's text; U+FFFD for part of a character.")]
    logprob: Annotated[float, Meta(description="Natural logarithm of the token's probability.")]
    bytes: Annotated[list[int], Meta(description="The token's bytes in UTF-8.")]


class TokenLogprobs(Logprob, frozen=True):
    """A token of the answer, and the most likely tokens at its position."""

    top_logprobs: list[Logprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One entry for each token of the answer, or of the chunk."""

    content: list[TokenLogprobs]
    refusal: None


class AnswerFunction(msgspec.Struct):
    """The function that is called."""

    # Not frozen: the arguments grow while the answer is generated.
    name: str
    arguments: Annotated[str, Meta(description="The arguments, as a string of JSON.")]


class AnswerCall(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A tool call."""

    id: str
    function: AnswerFunction


class AnswerMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """The model's message."""

    content: str | None
    refusal: None
    reasoning_content: (
        Annotated[str, Meta(description="The model's thoughts before its answer.")] | UnsetType
    ) = UNSET
    tool_calls: list[AnswerCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: _Index
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: _Finish


class ChatCompletion(ResponseMeta, frozen=True, tag_field="object", tag="chat.completion"):
    """The answers to a conversation."""

    choices: list[ChatChoice]
    usage: UsageObject


class DeltaFunction(msgspec.Struct, frozen=True):
    """The new part of a called function."""

    arguments: Annotated[str, Meta(description="To be appended to the arguments so far.")]
    name: str | UnsetType = UNSET


class DeltaCall(msgspec.Struct, frozen=True):
    """The new part of a call; its first chunk has everything but the arguments."""

    index: Annotated[int, Meta(description="Index of the call in the answer, from 0.")]
    function: DeltaFunction
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True):
    """The new part of an answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: (
        Annotated[str, Meta(description="To be appended to the content so far.")] | UnsetType
    ) = UNSET
    reasoning_content: (
        Annotated[str, Meta(description="To be appended to the thoughts so far.")] | UnsetType
    ) = UNSET
    tool_calls: list[DeltaCall] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """A chunk of one answer."""

    index: _Index
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Annotated[_Finish | None, Meta(description="Null in all chunks but the last.")]


class ChatCompletionChunk(
    ResponseMeta, frozen=True, tag_field="object", tag="chat.completion.chunk"
):
    """A chunk of the answers to a conversation."""

    choices: Annotated[list[ChunkChoice], Meta(description="Empty in the chunk with the usage.")]
    usage: Annotated[
        UsageObject | UnsetType | None,
        Meta(description="Present with `include_usage`; null in all chunks but the last."),
    ] = UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """One entry in each list for each token."""

    tokens: list[str]
    token_logprobs: Annotated[
        list[float | None], Meta(description="Null for the first token of an echoed prompt.")
    ]
    top_logprobs: list[dict[str, float] | None]
    text_offset: Annotated[list[int], Meta(description="Start of each token, in characters.")]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer, or a chunk of it."""

    index: _Index
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Annotated[_Finish | None, Meta(description="Null in all chunks but the last.")]


class Completion(ResponseMeta, frozen=True, tag_field="object", tag="text_completion"):
    """The answers to a raw prompt; chunks have the same fields."""

    choices: list[CompletionChoice]
    usage: UsageObject | UnsetType | None = UNSET


class Model(msgspec.Struct, frozen=True, tag_field="object", tag="model"):
    """A model, or a model with one of its adapters."""

    id: Annotated[str, Meta(description="A name for a request's `model`.")]
    created: Annotated[int, Meta(description="Start of the service, Unix time in seconds.")]
    owned_by: str
    input_modalities: Annotated[
        list[Literal["text", "image", "audio"]],
        Meta(description="The kinds of content that it takes, by OpenRouter's words."),
    ]
    max_model_len: Annotated[
        int | UnsetType,
        Meta(description="Maximum length of prompt and answer together, tokens, as of vLLM."),
    ] = UNSET
    dimensions: Annotated[
        int | UnsetType, Meta(description="Length of the vectors of an embedding model.")
    ] = UNSET
    languages: Annotated[
        list[str] | UnsetType, Meta(description="Languages that a speech model knows, ISO 639.")
    ] = UNSET


class ModelList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """All models."""

    data: list[Model]


class UpdateHold(msgspec.Struct, frozen=True):
    """The hold that was set through this API; it ends at the latest when the service stops."""

    held: Annotated[bool, Meta(description="True if updates are refused.")]
    reason: Annotated[str | None, Meta(description="The reason; null without a hold.")] = None
    seconds: Annotated[
        float | None, Meta(description="Seconds until its end; null without a hold.")
    ] = None


class ErrorFields(msgspec.Struct, frozen=True):
    """An error's fields."""

    message: Annotated[str, Meta(description="The problem and what to do, for people.")]
    type: Annotated[str, Meta(description="OpenAI's class of the error.")]
    param: Annotated[str | None, Meta(description="Name of the invalid field.")]
    code: Annotated[str | None, Meta(description="The problem, for programs.")]


class Error(msgspec.Struct, frozen=True):
    """The body of a response that is not 2xx."""

    error: ErrorFields
