"""The objects of Anthropic's responses: they are what is encoded, sent and documented.

Sources: the types of the package `anthropic`, 2.14.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from device_runtime.api.errors import REQUEST_ID, ApiError
from device_runtime.inference.engine import PromptTooLongError

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]

_Signature = Annotated[str, Meta(description="Empty: thoughts are not signed.")]
_StopSequence = Annotated[str | None, Meta(description="The stop sequence that ended the answer.")]


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text of the answer."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """The model's thoughts."""

    thinking: str
    signature: _Signature = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a request used."""

    input_tokens: Annotated[int, Meta(description="Tokens of the prompt that were prefilled.")]
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: Annotated[
        int, Meta(description="Tokens of the prompt reused from an earlier request.")
    ] = 0


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """The answer to a conversation."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: Annotated[str, Meta(description="The model's name as in the request.")]
    content: Annotated[
        list[ContentBlock], Meta(description="A call that `max_tokens` cuts off is left out.")
    ]
    stop_reason: StopReason | None
    stop_sequence: _StopSequence
    usage: MessageUsage


class TokensCount(msgspec.Struct, frozen=True):
    """The length of a prompt."""

    input_tokens: int


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    """The start of a streamed answer."""

    message: Message


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    """The next part of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """The next part of thoughts."""

    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    """The signature of thoughts, after their last part."""

    signature: _Signature = ""


class InputJsonDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """The next part of a call's input, as JSON."""

    partial_json: str


class ContentBlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """The start of a block."""

    index: int
    content_block: ContentBlock


class ContentBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """The next part of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """The end of a block."""

    index: int


class StopDelta(msgspec.Struct, frozen=True):
    """The reason that the answer ended."""

    stop_reason: StopReason
    stop_sequence: _StopSequence


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    """The end of the answer's content."""

    delta: StopDelta
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    """The end of a streamed answer."""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A sign that a stream goes on."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """A model, or a model with one of its adapters."""

    id: str
    display_name: str
    created_at: datetime
    lifecycle: Literal["active"] = "active"


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    data: list[ModelInfo]
    first_id: str
    last_id: str
    has_more: bool = False


class ThreadDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The reason by which clients know to go on without a thread that the server keeps."""

    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"
    unsupported: tuple[str, ...] = ("thread",)


class ErrorDetail(msgspec.Struct, frozen=True):
    """An error's fields."""

    type: Annotated[str, Meta(description="Anthropic's class of the error.")]
    message: Annotated[str, Meta(description="The problem and what to do, for people.")]
    details: ThreadDetails | UnsetType = UNSET


class ErrorMessage(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of a response that is not 2xx, and the event that ends a failed answer."""

    error: ErrorDetail
    request_id: Annotated[
        str | None,
        Meta(description="As in the header `X-Request-Id`; null if the head was not read."),
    ] = None

    @classmethod
    def of(cls, error: ApiError) -> "ErrorMessage":
        """Write an error as Anthropic's API does."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            503: "overloaded_error",
            504: "timeout_error",
        }
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
        message = str(error)
        if error.code == PromptTooLongError.api_code:
            # In Anthropic's words: by them, clients recognize the error.
            message = f"prompt is too long: {message}"
        details = ThreadDetails() if error.param == "thread" else UNSET
        detail = ErrorDetail(kinds.get(error.status, kind), message, details)
        return cls(detail, REQUEST_ID.get())
