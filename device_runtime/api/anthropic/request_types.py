"""The bodies of Anthropic's requests: fields, types and bounds.

Sources: the types of the package `anthropic`, 2.14. The descriptions of fields appear in the API's
document.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.api.chat_types import OF_OBJECTS, Name
from device_runtime.api.request_types import MAX_STOPS

IGNORED = frozenset(
    {
        "billing_policy",
        "cache_control",
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
        "user_profile_id",
        "workspace_id",
    }
)
"""Fields that do not affect the answer: names, and wishes about caching and priority."""

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "compaction": (),
    "container": (),
    "context_management": (
        {"edits": []},
        # What Claude Code sends: all thoughts stay.
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    ),
    "fallback_credit_token": (),
    "fallbacks": ([],),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "thread": (),
}
"""Unsupported fields, and the values besides null that request nothing."""

TOOL_IGNORED = frozenset({"cache_control", "eager_input_streaming"})
"""Fields of a tool that do not affect the answer."""

TOOL_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
"""Unsupported fields of a tool, and the values besides null that request nothing."""

_Ignored = Annotated[Any, Meta(description="Ignored.")]


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A block of a message."""


class TextBlockParam(_Block, frozen=True, tag="text"):
    """Text."""

    text: str
    cache_control: _Ignored = None
    citations: _Ignored = None


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The source of an image."""


class Base64ImageSource(_Source, frozen=True, tag="base64"):
    """The data of an image."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Meta(description="The file, in base64.")]


class UrlImageSource(_Source, frozen=True, tag="url"):
    """The place to load an image from."""

    url: Annotated[str, Meta(description="As of a chat completion's image.")]


class ImageBlockParam(_Block, frozen=True, tag="image"):
    """An image in a user's message, for models that see."""

    source: Base64ImageSource | UrlImageSource
    cache_control: _Ignored = None
    transformations: Annotated[
        Annotated[dict[str, Any], Meta(max_length=0)] | None, Meta(description="Not supported.")
    ] = None


class OnlyTextParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text, where there can be no other block."""

    # A field and no tag: of a struct that is alone, msgspec does not require the tag.
    type: Literal["text"]
    text: str
    cache_control: _Ignored = None
    citations: _Ignored = None


class ToolUseBlockParam(_Block, frozen=True, tag="tool_use"):
    """A call that the assistant made."""

    id: Annotated[str, Meta(min_length=1)]
    name: Name
    input: dict[str, Any]
    cache_control: _Ignored = None
    caller: _Ignored = None
    toolset_name: _Ignored = None


class ToolResultBlockParam(_Block, frozen=True, tag="tool_result"):
    """The result of a call."""

    tool_use_id: Annotated[str, Meta(description="Id of the call that returned this result.")]
    content: str | list[OnlyTextParam] | None = None
    is_error: Annotated[
        bool | None, Meta(description="The call failed: the model reads `Error: ` before the text.")
    ] = None
    cache_control: _Ignored = None
    toolset_name: _Ignored = None


class ThinkingBlockParam(_Block, frozen=True, tag="thinking"):
    """Thoughts of an earlier answer; the chat template leaves them out where it should."""

    thinking: str
    signature: _Ignored = None


class RedactedThinkingBlockParam(_Block, frozen=True, tag="redacted_thinking"):
    """Thoughts of another service, which nobody can read here: ignored."""

    data: _Ignored = None


BlockParam = (
    TextBlockParam
    | ImageBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
    | ThinkingBlockParam
    | RedactedThinkingBlockParam
)


class MessageParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation; messages of one role in a row are joined."""

    role: Literal["user", "assistant", "system"]
    content: str | list[BlockParam]


class ToolParam(msgspec.Struct, frozen=True):
    """A tool of the client; Anthropic's own tools are not supported."""

    name: Name
    input_schema: Annotated[
        dict[str, Any],
        Meta(
            description="JSON schema of the input, of the type `object`.",
            extra_json_schema=OF_OBJECTS,
        ),
    ]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: Annotated[
        bool | None, Meta(description="Guarantee an input that conforms to the schema.")
    ] = None


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A choice among the tools."""

    disable_parallel_tool_use: Annotated[
        bool | None, Meta(description="Allow one call in an answer only.")
    ] = None


class AutoChoice(_Choice, frozen=True, tag="auto"):
    """The model decides."""


class AnyChoice(_Choice, frozen=True, tag="any"):
    """The model must call a tool."""


class ToolChoiceParam(_Choice, frozen=True, tag="tool", kw_only=True):
    """The model must call this tool."""

    name: str


class NoneChoice(_Choice, frozen=True, tag="none"):
    """The model must not call a tool."""


class OutputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """JSON that conforms to a schema."""

    type: Literal["json_schema"]
    schema: Annotated[Any, Meta(description="JSON schema; see docs/structured-output.md.")]


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer."""

    effort: Annotated[
        Literal["low", "medium", "high", "xhigh", "max"] | None,
        Meta(description="How much to think; ignored unless `thinking` is enabled or adaptive."),
    ] = None
    format: OutputFormat | None = None


class _Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A choice of thinking before the answer."""


class ThinkingDisabled(_Thinking, frozen=True, tag="disabled"):
    """The model does not think."""


_Display = Annotated[
    Literal["summarized", "omitted"] | None,
    Meta(description="`omitted` leaves the text of the thoughts out; they are never summarized."),
]


class ThinkingAdaptive(_Thinking, frozen=True, tag="adaptive"):
    """The model thinks as it does by default."""

    display: _Display = None


class ThinkingEnabled(_Thinking, frozen=True, tag="enabled"):
    """The model thinks."""

    budget_tokens: Annotated[
        int, Meta(ge=1, le=2**31 - 1, description="Maximum tokens of the thoughts.")
    ]
    display: _Display = None


class CountTokensBody(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt whose tokens are counted."""

    model: Annotated[str, Meta(description="The device's model, or `MODEL:ADAPTER`.")]
    messages: Annotated[
        list[MessageParam], Meta(min_length=1, description="The conversation, oldest first.")
    ]
    system: Annotated[str | list[OnlyTextParam] | None, Meta(description="The system prompt.")] = (
        None
    )
    tools: Annotated[
        Annotated[list[ToolParam], Meta(max_length=128)] | None,
        Meta(description="Tools that may be called."),
    ] = None
    tool_choice: Annotated[
        AutoChoice | AnyChoice | ToolChoiceParam | NoneChoice | None,
        Meta(description="Whether to call tools, and which; the default is `auto`."),
    ] = None
    output_config: OutputConfig | None = None
    thinking: Annotated[
        ThinkingDisabled | ThinkingAdaptive | ThinkingEnabled | None,
        Meta(
            description="Whether to think first: by default not, if the model can do without; "
            "`enabled` is refused if it cannot think."
        ),
    ] = None


class MessagesBody(CountTokensBody, frozen=True, kw_only=True):
    """A request for a message."""

    max_tokens: Annotated[
        int,
        Meta(ge=1, le=2**31 - 1, description="Maximum tokens; a full context ends it earlier."),
    ]
    stream: Annotated[bool | None, Meta(description="Stream the answer as events.")] = None
    stop_sequences: Annotated[
        Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)] | None,
        Meta(description="Texts before which the answer ends."),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="As in a chat completion; the default is the device's, not 1."),
    ] = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
