"""The objects of the Responses API, other than events: what is encoded, sent and documented."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.api.openai_responses.request_types import (
    AllowedFunctions,
    FunctionChoice,
    FunctionToolOfResponses,
    ReasoningOptions,
    ReasoningText,
    SummaryText,
    TextOptions,
)
from device_runtime.api.response_types import TokenLogprobs

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class AnswerText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    annotations: Annotated[list[Any], Meta(max_length=0)] = []
    logprobs: Annotated[
        list[TokenLogprobs], Meta(description="Empty unless they are requested.")
    ] = []


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message of the model."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[AnswerText]


class CallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of a function."""

    id: str
    status: ItemStatus
    call_id: Annotated[str, Meta(description="For the item with the result.")]
    name: str
    arguments: Annotated[str, Meta(description="The arguments, as a string of JSON.")]


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """Thoughts of the model before its answer."""

    id: str
    status: ItemStatus
    summary: Annotated[
        list[SummaryText], Meta(description="The thoughts, if the request asks for a summary.")
    ] = []
    content: Annotated[
        list[ReasoningText], Meta(description="The thoughts, unless it asks for a summary.")
    ] = []
    encrypted_content: None = None


OutputItem = MessageItem | CallItem | ReasoningItem


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Details of a prompt's tokens."""

    cached_tokens: Annotated[
        int, Meta(description="Tokens reused from an earlier request, without prefill.")
    ]
    cache_write_tokens: Annotated[int, Meta(description="Always 0: nothing is charged.")] = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Details of an answer's tokens."""

    reasoning_tokens: Annotated[
        int, Meta(description="Tokens of thoughts, with those that begin and end them.")
    ]


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a response used."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: Annotated[int, Meta(description="End token and thoughts included.")]
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """The reason why a response failed."""

    code: Literal["server_error"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="response"):
    """A response. Most fields are those of the request, with its defaults."""

    id: Annotated[str, Meta(description="Unique among the responses of this device.")]
    created_at: Annotated[int, Meta(description="Unix time by the device's clock, seconds.")]
    completed_at: Annotated[int | None, Meta(description="The same of the end.")]
    status: Annotated[
        Status,
        Meta(
            description="`incomplete`: the answer has `max_output_tokens`, or the context is full."
        ),
    ]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    background: Literal[False] = False
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningOptions
    store: Annotated[bool, Meta(description="True if the device keeps the response for a while.")]
    temperature: float
    text: TextOptions
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedFunctions
    tools: list[FunctionToolOfResponses]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: Annotated[ResponseUsage | None, Meta(description="Null until the end.")]


class ItemList(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="list"):
    """The items that a response answers."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: Annotated[bool, Meta(description="True if there are more after `last_id`.")]


class DeletedResponse(msgspec.Struct, frozen=True, tag_field="object", tag="response"):
    """A response that is kept no longer."""

    id: str
    deleted: Literal[True] = True


class TokenCount(msgspec.Struct, frozen=True, tag_field="object", tag="response.input_tokens"):
    """The number of tokens of a prompt."""

    input_tokens: int
