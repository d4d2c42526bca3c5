"""The body of a chat completion request: fields, types and bounds."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.api.request_types import Sampling, Tokens
from device_runtime.bundle.reasoning import Argument, Value

CHAT_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Unsupported fields, and the values besides null that request nothing."""

TURN_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
}
"""The same for messages: fields that OpenAI's clients send back with an earlier answer."""

Detail = Literal["auto", "low", "high", "original"]

# In Python, unlike in JSON Schema, `$` also matches before a trailing line break.
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}(?!\n)$")]

OF_OBJECTS = {
    "if": {"type": "object", "minProperties": 1},
    "then": {"properties": {"type": {"const": "object"}}, "required": ["type"]},
}
"""A JSON schema of the JSON schemas of objects; an empty one stands for no properties."""

Parameters = Annotated[
    dict[str, Any] | None,
    Meta(
        description="JSON schema of the arguments, of the type `object`; without it, the "
        "function takes none.",
        extra_json_schema=OF_OBJECTS,
    ),
]


_Breakpoint = Annotated[
    dict[str, Any] | None, Meta(description="Ignored: the device finds what it can reuse.")
]


class TextPart(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    """A text within a message."""

    text: str
    prompt_cache_breakpoint: _Breakpoint = None


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of an image, or the place to load it from."""

    url: Annotated[
        str,
        Meta(
            description="`data:image/png;base64,...`; or `http://`, `https://`, `file://` or a "
            "path on the device, where `image_hosts` or `image_folders` allows it."
        ),
    ]
    detail: Annotated[
        Detail | None, Meta(description="Ignored: the model's own resolution applies.")
    ] = None


class ImagePart(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"
):
    """An image within a user's message, for models that see."""

    image_url: ImageUrl
    prompt_cache_breakpoint: _Breakpoint = None


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function and the arguments of its call."""

    name: Name
    arguments: Annotated[str, Meta(description="The arguments, as a string of JSON.")]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call that the assistant made."""

    id: Annotated[str, Meta(min_length=1)]
    type: Literal["function"]
    function: CalledFunction
    index: Annotated[int | None, Meta(description="As in the chunks of a streamed answer.")] = None


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Meta(description="Role of the author; `developer` is an alias of `system`."),
    ]
    content: Annotated[
        str | list[TextPart | ImagePart] | None,
        Meta(
            description="The text, or texts and images; optional in an assistant's message with "
            "tool calls."
        ),
    ] = None
    tool_calls: Annotated[
        list[ToolCall] | None, Meta(description="Calls that the assistant made.")
    ] = None
    tool_call_id: Annotated[
        str | None,
        Meta(description="Only with the role `tool`: id of the call that returned this result."),
    ] = None
    name: Annotated[
        str | None,
        Meta(
            description="Name of the author, for chat templates that write names; others omit "
            "it. A message with the role `tool` always gets the name of the function called."
        ),
    ] = None

    reasoning_content: Annotated[
        str | None,
        Meta(
            description="The assistant's thoughts, from an earlier answer; the template decides "
            "whether the model reads them again."
        ),
    ] = None
    reasoning: Annotated[str | None, Meta(description="Alias of reasoning_content.")] = None


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: Parameters = None
    strict: Annotated[
        bool | None, Meta(description="Guarantee arguments that conform to the schema.")
    ] = None


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class NamedTool(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """A tool by its name; as `tool_choice`, the one that must be called."""

    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tools that may be called, out of all those of the request."""

    mode: Annotated[
        Literal["auto", "required"], Meta(description="Whether one of them must be called.")
    ]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class AllowedToolChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """A choice among some of the tools: the others are left out."""

    allowed_tools: AllowedTools


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of an answer."""

    name: Name
    schema: Annotated[Any, Meta(description="JSON schema; see docs/structured-output.md.")] = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text, any JSON object, or JSON that conforms to a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(Sampling, frozen=True, kw_only=True):
    """A request for a chat completion."""

    messages: Annotated[
        list[Turn], Meta(min_length=1, description="The conversation, oldest message first.")
    ]
    max_completion_tokens: Annotated[Tokens | None, Meta(description="Alias of max_tokens.")] = None
    logprobs: Annotated[
        bool | None, Meta(description="Return the log probability of each token.")
    ] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(
            description="Also return this many of the most likely tokens at each position; "
            "requires `logprobs`."
        ),
    ] = None
    response_format: Annotated[
        ResponseFormat | None, Meta(description="Form of the answer; the default is text.")
    ] = None
    tools: Annotated[
        Annotated[list[FunctionTool], Meta(max_length=128)] | None,
        Meta(description="Functions that the model may call."),
    ] = None
    tool_choice: Annotated[
        ToolChoice | None,
        Meta(description="Whether to call tools, and which; the default is `auto`."),
    ] = None
    chat_template_kwargs: Annotated[
        Annotated[dict[Argument, Value], Meta(max_length=16)] | None,
        Meta(
            description="Arguments of the model's chat template, such as `enable_thinking`; the "
            "bundle's manifest names the one that switches thinking."
        ),
    ] = None
    reasoning_effort: Annotated[
        Effort | None,
        Meta(
            description="Whether to think: not with `none`. Models that were trained with efforts "
            "think more or less. The default is the model's own."
        ),
    ] = None
    enable_thinking: Annotated[
        bool | None, Meta(description="Whether to think, as Qwen's own API has it.")
    ] = None
    thinking_budget_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(
            description="Maximum tokens of the thoughts: then they are ended, and the answer "
            "begins. They count towards max_tokens."
        ),
    ] = None
    continue_final_message: Annotated[
        bool | None,
        Meta(
            description="Continue the last message, of the assistant, in place of answering it; "
            "only the new text is returned."
        ),
    ] = None
    add_generation_prompt: Annotated[
        bool | None,
        Meta(description="The opposite of `continue_final_message`, as other servers want it too."),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Meta(description="Allow several calls in one answer; the default is true.")
    ] = None
