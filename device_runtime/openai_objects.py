"""The objects of OpenAI's answers: what `openai_answers` writes, for the API's document."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Seconds = Annotated[int, Meta(description="Seconds since 1970, of the device's clock.")]
_Index = Annotated[int, Meta(ge=0, description="Which of the `n` answers.")]
_Finish = Annotated[
    Literal["stop", "length", "tool_calls"],
    Meta(
        description="`stop`: the model or a stop text ended it. `length`: it has `max_tokens`, or "
        "the context is full; JSON may be incomplete then. `tool_calls`: it calls tools."
    ),
]
_Fingerprint = Annotated[str, Meta(description="Changes with the release.")]


class TokensDetails(msgspec.Struct, frozen=True):
    """What is known of a prompt's tokens."""

    cached_tokens: Annotated[
        int, Meta(description="Remembered from an earlier request, and not read again.")
    ]


class UsageObject(msgspec.Struct, frozen=True):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: Annotated[int, Meta(description="Of all answers, end tokens included.")]
    total_tokens: int
    prompt_tokens_details: TokensDetails


class Logprob(msgspec.Struct, frozen=True):
    """How likely the model found a token, before temperature, penalties and bias."""

    token: Annotated[str, Meta(description="Its text; of a part of a character, U+FFFD.")]
    logprob: Annotated[float, Meta(description="Natural logarithm of its probability.")]
    bytes: Annotated[list[int], Meta(description="Its bytes of UTF-8.")]


class TokenLogprobs(Logprob, frozen=True):
    """A token of the answer, and the most likely ones at its place."""

    top_logprobs: list[Logprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One entry for each token of the answer, or of the piece."""

    content: list[TokenLogprobs]
    refusal: None


class AnswerFunction(msgspec.Struct, frozen=True):
    """The function that is called."""

    name: str
    arguments: Annotated[str, Meta(description="JSON in a string; a piece of it in pieces.")]


class AnswerCall(msgspec.Struct, frozen=True):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: AnswerFunction


class AnswerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnswerCall] = []


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: _Index
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: _Finish


class _Head(msgspec.Struct, frozen=True):
    """What all answers begin with."""

    id: str
    created: _Seconds
    model: str
    system_fingerprint: _Fingerprint


class ChatCompletion(_Head, frozen=True):
    """The answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: UsageObject


class DeltaFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new of a called function."""

    arguments: str
    name: str | msgspec.UnsetType = msgspec.UNSET


class DeltaCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new of a call; its first piece has everything but the arguments."""

    index: Annotated[int, Meta(description="Which call of the answer.")]
    function: DeltaFunction
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new of an answer."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: Annotated[str, Meta(description="To be put behind what came before.")] | (
        msgspec.UnsetType
    ) = msgspec.UNSET
    tool_calls: list[DeltaCall] | msgspec.UnsetType = msgspec.UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """A piece of one answer."""

    index: _Index
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Annotated[_Finish | None, Meta(description="Only in an answer's last piece.")]


class ChatCompletionChunk(_Head, frozen=True, omit_defaults=True):
    """A piece of the answers to a conversation."""

    object: Literal["chat.completion.chunk"]
    choices: Annotated[list[ChunkChoice], Meta(description="Empty in the piece with the usage.")]
    usage: Annotated[
        UsageObject | msgspec.UnsetType | None,
        Meta(description="Only with `include_usage`; null in all pieces but the last."),
    ] = msgspec.UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """One entry in each list for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: Annotated[list[int], Meta(description="Where it begins, in characters.")]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer, or a piece of it."""

    index: _Index
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Annotated[_Finish | None, Meta(description="Null in all pieces but the last.")]


class Completion(_Head, frozen=True, omit_defaults=True):
    """The answers to a raw text; pieces look the same."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: UsageObject | msgspec.UnsetType | None = msgspec.UNSET


class Model(msgspec.Struct, frozen=True):
    """A model, or a model with one of its adapters."""

    id: Annotated[str, Meta(description="What a request's `model` may be.")]
    object: Literal["model"]
    created: Annotated[int, Meta(description="When the service started, seconds since 1970.")]
    owned_by: str


class ModelList(msgspec.Struct, frozen=True):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class ErrorFields(msgspec.Struct, frozen=True):
    """What is wrong."""

    message: Annotated[str, Meta(description="For people; it names the field and what to do.")]
    type: Annotated[str, Meta(description="OpenAI's class of the error.")]
    param: Annotated[str | None, Meta(description="The field that is wrong.")]
    code: Annotated[str | None, Meta(description="What is wrong, for programs.")]


class Error(msgspec.Struct, frozen=True):
    """Any answer that is not 2xx."""

    error: ErrorFields
