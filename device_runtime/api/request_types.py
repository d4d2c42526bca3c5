"""The bodies of OpenAI's requests: fields, types and bounds.

The descriptions of fields appear in the API's document.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.bundle.reasoning import Argument, Value

IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Fields that do not affect the answer."""

CHAT_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Unsupported fields, and the values besides null that request nothing."""

COMPLETION_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"best_of": (1,), "suffix": ("",)}
"""The same for raw completions."""

TURN_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
}
"""The same for messages: fields that OpenAI's clients send back with an earlier answer."""

_TokenId = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(?!\n)$")]
_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


# In Python, unlike in JSON Schema, `$` also matches before a trailing line break.
_Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}(?!\n)$")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function and the arguments of its call."""

    name: _Name
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
        str | list[Part] | None,
        Meta(description="The text; optional in an assistant's message with tool calls."),
    ] = None
    tool_calls: Annotated[
        Annotated[list[ToolCall], Meta(min_length=1)] | None,
        Meta(description="Calls that the assistant made."),
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


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called."""

    name: _Name
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None,
        Meta(
            description="JSON schema of the arguments, of the type `object`; without it, the "
            "function takes none.",
            extra_json_schema={
                "if": {"type": "object", "minProperties": 1},
                "then": {"properties": {"type": {"const": "object"}}, "required": ["type"]},
            },
        ),
    ] = None
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


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a streamed answer."""

    include_usage: Annotated[bool | None, Meta(description="Send a last chunk with the usage.")] = (
        None
    )


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of an answer."""

    name: _Name
    schema: Annotated[Any, Meta(description="JSON schema; see docs/structured-output.md.")] = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text, any JSON object, or JSON that conforms to a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both types of request share."""

    model: Annotated[
        str | None,
        Meta(description="The device's model (the default), or `MODEL:ADAPTER`."),
    ] = None
    stream: Annotated[bool | None, Meta(description="Stream the answer as server-sent events.")] = (
        None
    )
    stream_options: Annotated[
        StreamOptions | None, Meta(description="Ignored unless the answer is streamed.")
    ] = None
    max_tokens: Annotated[
        _Tokens | None,
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
        Annotated[float, Meta(gt=0, le=10)] | None,
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
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=4)]
        | None,
        Meta(description="Strings before which the answer ends."),
    ] = None


class ChatBody(Sampling, frozen=True, kw_only=True):
    """A request for a chat completion."""

    messages: Annotated[
        list[Turn], Meta(min_length=1, description="The conversation, oldest message first.")
    ]
    max_completion_tokens: Annotated[_Tokens | None, Meta(description="Alias of max_tokens.")] = (
        None
    )
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
        Literal["none", "auto", "required"] | NamedTool | None,
        Meta(description="Whether to call tools, and which; the default is `auto`."),
    ] = None
    chat_template_kwargs: Annotated[
        Annotated[dict[Argument, Value], Meta(max_length=16)] | None,
        Meta(
            description="Arguments of the model's chat template, such as `enable_thinking`; the "
            "bundle's manifest names the one that switches thinking."
        ),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Meta(description="Allow several calls in one answer; the default is true.")
    ] = None


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
