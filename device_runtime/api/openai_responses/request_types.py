"""The body of a request for a response: fields, types and bounds.

https://developers.openai.com/api/reference/resources/responses, as in the types of OpenAI's own
client. Items come in a list of their own kinds, so `items` checks them one by one.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.api.chat_types import Detail, Effort, Name, Parameters
from device_runtime.api.request_types import Tokens

BODY_IGNORED = frozenset(
    {
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""Fields that do not affect the answer; `max_tool_calls` counts calls of built-in tools alone."""

BODY_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
"""Unsupported fields, and the values besides null that request nothing."""

REASONING_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "context": ("auto",),
    "generate_summary": (),
    "mode": ("standard",),
}
"""The same for `reasoning`."""

TOOL_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
}
"""The same for tools."""

TOOL_IGNORED = frozenset({"output_schema"})


class InputText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"
):
    """A text for the model."""

    text: str
    prompt_cache_breakpoint: Annotated[
        dict[str, Any] | None, Meta(description="Ignored: the device finds what it can reuse.")
    ] = None


class InputImage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_image"
):
    """An image in a user's message, for models that see."""

    image_url: Annotated[str, Meta(description="As of a chat completion's image.")]
    detail: Annotated[
        Detail | None, Meta(description="Ignored: the model's own resolution applies.")
    ] = None
    file_id: Annotated[
        None, Meta(description="Not supported: the device keeps no files of clients.")
    ] = None
    prompt_cache_breakpoint: Annotated[
        dict[str, Any] | None, Meta(description="Ignored: the device finds what it can reuse.")
    ] = None


class OutputText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"
):
    """A text that the model wrote."""

    text: str
    annotations: Annotated[list[Any] | None, Meta(description="Ignored.")] = None
    logprobs: Annotated[list[Any] | None, Meta(description="Ignored.")] = None


class Refusal(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"
):
    """A text with which a model refused."""

    refusal: str


class SummaryText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="summary_text"
):
    """Thoughts, as they are returned where the request asks for a summary."""

    text: str


class ReasoningText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"
):
    """Thoughts."""

    text: str


_ItemId = Annotated[
    Annotated[str, Meta(min_length=1, max_length=128)] | None, Meta(description="Id of the item.")
]
_CallId = Annotated[
    str, Meta(min_length=1, max_length=128, description="Id that joins a call and its result.")
]


class InputMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputImage | OutputText | Refusal]
    id: _ItemId = None


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: _CallId
    name: Name
    arguments: Annotated[str, Meta(description="The arguments, as a string of JSON.")]
    id: _ItemId = None


class FunctionCallOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: _CallId
    output: str | list[InputText]
    name: Annotated[str | None, Meta(description="Ignored: its call has the name.")] = None
    id: _ItemId = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """Thoughts of an earlier answer; whether the model sees them, its chat template decides."""

    type: Literal["reasoning"]
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    id: _ItemId = None


class ItemReference(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a response that is kept."""

    type: Literal["item_reference"] = "item_reference"
    id: Annotated[str, Meta(min_length=1, max_length=128)]


Item = InputMessage | FunctionCall | FunctionCallOutput | Reasoning


class FunctionToolOfResponses(msgspec.Struct, frozen=True):
    """A function that the model may call; other kinds of tools are refused."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Parameters = None
    strict: Annotated[
        bool | None,
        Meta(
            description="With true, a schema that cannot be enforced is refused; otherwise it is "
            "enforced as far as possible."
        ),
    ] = None


class FunctionChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """A function by its name; as `tool_choice`, the one that must be called."""

    name: str


class AllowedFunctions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """A choice among some of the tools: the others are left out."""

    mode: Annotated[
        Literal["auto", "required"], Meta(description="Whether one of them must be called.")
    ]
    tools: Annotated[list[FunctionChoice], Meta(min_length=1)]


class TextFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    """Text without a form."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"
):
    """Any JSON object."""


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    """JSON that conforms to a schema."""

    name: Name
    schema: Annotated[
        dict[str, Any], Meta(description="JSON schema; see docs/structured-output.md.")
    ]
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer's text."""

    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: Annotated[
        Literal["medium"] | None, Meta(description="The model cannot be made to say more or less.")
    ] = None


class ReasoningOptions(msgspec.Struct, frozen=True):
    """Options of thinking, and of how thoughts are returned."""

    effort: Annotated[
        Effort | None,
        Meta(description="As `reasoning_effort` of a chat completion."),
    ] = None
    summary: Annotated[
        Literal["auto", "concise", "detailed"] | None,
        Meta(
            description="Return thoughts in `summary` of their item instead of `content`, for "
            "clients that read only that. They are not shortened."
        ),
    ] = None


class StreamOptionsOfResponses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_obfuscation: Annotated[
        Literal[False] | None, Meta(description="Events are never padded.")
    ] = None


_Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
LOGPROBS = "message.output_text.logprobs"


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a response."""

    input: Annotated[
        str | Annotated[list[dict[str, Any]], Meta(min_length=1)],
        Meta(description="The user's message, or the items of the conversation, oldest first."),
    ]
    model: Annotated[
        str | None,
        Meta(description="The device's model (the default), or `MODEL:ADAPTER`."),
    ] = None
    instructions: Annotated[
        str | None,
        Meta(description="The system prompt; it is not carried over by `previous_response_id`."),
    ] = None
    previous_response_id: Annotated[
        str | None,
        Meta(description="Continue the conversation of this response, if the device still has it."),
    ] = None
    store: Annotated[
        bool | None,
        Meta(
            description="Keep the response for a while, in memory (the default, unless "
            "`stored_responses` is 0). A response is visible only with the API key it was made "
            "with."
        ),
    ] = None
    stream: Annotated[bool | None, Meta(description="Stream the answer as server-sent events.")] = (
        None
    )
    stream_options: Annotated[
        StreamOptionsOfResponses | None, Meta(description="Ignored unless the answer is streamed.")
    ] = None
    max_output_tokens: Annotated[
        Tokens | None,
        Meta(
            description="Maximum tokens of an answer, thoughts included; a full context ends it "
            "earlier."
        ),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(
            description="0 picks the most likely token each time. The default is 0, or 1 if the "
            "request has top_p."
        ),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Sample from the most likely tokens that add up to this probability."),
    ] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(
            description="Return log probabilities, and this many of the most likely tokens at "
            "each position."
        ),
    ] = None
    include: Annotated[
        list[_Include] | None,
        Meta(
            description=f"`{LOGPROBS}` returns the log probability of each token. There is "
            "nothing to return for the others: thoughts are not encrypted, and no tools are built "
            "in."
        ),
    ] = None
    text: Annotated[
        TextOptions | None, Meta(description="Form of the answer; the default is text.")
    ] = None
    reasoning: Annotated[
        ReasoningOptions | None,
        Meta(description="Whether the model thinks, and how its thoughts are returned."),
    ] = None
    tools: Annotated[
        Annotated[list[FunctionToolOfResponses], Meta(max_length=128)] | None,
        Meta(description="Functions that the model may call."),
    ] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | FunctionChoice | AllowedFunctions | None,
        Meta(description="Whether to call tools, and which; the default is `auto`."),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Meta(description="Allow several calls in one answer; the default is true.")
    ] = None
    metadata: Annotated[
        Annotated[
            dict[
                Annotated[str, Meta(max_length=64)],
                Annotated[str, Meta(max_length=512)],
            ],
            Meta(max_length=16),
        ]
        | None,
        Meta(description="Returned with the response."),
    ] = None


class ItemQuery(msgspec.Struct, frozen=True):
    """The query of a list of items."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Maximum number of items.")] = 20
    order: Annotated[
        Literal["asc", "desc"], Meta(description="`asc` lists the oldest item first.")
    ] = "desc"
    after: Annotated[str | None, Meta(description="List only items after this one.")] = None
