"""The bodies of OpenAI's requests: fields, types and bounds."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Fields that say nothing about the answer itself."""

CHAT_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Fields whose function is missing here, and the values beside null that ask for nothing."""

COMPLETION_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"best_of": (1,), "suffix": ("",)}
"""The same of raw completions."""

TURN_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
}
"""The same of messages: what OpenAI's clients send back with an earlier answer."""

_TokenNumber = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(?!\n)$")]
_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


# In Python, but not in JSON schemas, `$` would match before a last line break, too.
_Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}(?!\n)$")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a message; only text is known."""

    type: Literal["text"]
    text: str


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function and what it was called with."""

    name: _Name
    arguments: Annotated[str, Meta(description="JSON, in a string.")]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call that an assistant made."""

    id: Annotated[str, Meta(min_length=1)]
    type: Literal["function"]
    function: CalledFunction
    index: Annotated[int | None, Meta(description="As in the pieces of a streamed answer.")] = None


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Meta(description="Who speaks; `developer` is another name of `system`."),
    ]
    content: Annotated[
        str | list[Part] | None, Meta(description="The text; an assistant that calls needs none.")
    ] = None
    tool_calls: Annotated[
        Annotated[list[ToolCall], Meta(min_length=1)] | None,
        Meta(description="Calls that an assistant made."),
    ] = None
    tool_call_id: Annotated[
        str | None, Meta(description="In a message of the role `tool`: the call it answers.")
    ] = None
    name: Annotated[
        str | None,
        Meta(
            description="Name of the speaker, for chat templates that write names; others leave "
            "it out. A message of the role `tool` always gets the name of the function called."
        ),
    ] = None


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called."""

    name: _Name
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None,
        Meta(
            description="JSON schema of its arguments, of the type `object`; without it, none.",
            extra_json_schema={
                "if": {"type": "object", "minProperties": 1},
                "then": {"properties": {"type": {"const": "object"}}, "required": ["type"]},
            },
        ),
    ] = None
    strict: Annotated[bool | None, Meta(description="The arguments must keep to the schema.")] = (
        None
    )


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a streamed answer has beside its text."""

    include_usage: Annotated[
        bool | None, Meta(description="Send one more piece at the end, with the usage.")
    ] = None


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of an answer."""

    name: _Name
    schema: Annotated[Any, Meta(description="JSON schema; see docs/structured-output.md.")] = None
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
    stream_options: Annotated[
        StreamOptions | None, Meta(description="Of no effect on an answer that is not streamed.")
    ] = None
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
    top_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Sample from the most likely tokens that together have this probability."),
    ] = None
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
    frequency_penalty: Annotated[
        _Penalty | None,
        Meta(description="Taken from a token's score for each time the answer has it already."),
    ] = None
    presence_penalty: Annotated[
        _Penalty | None,
        Meta(description="Taken from a token's score if the answer has it already."),
    ] = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(gt=0, le=10)] | None,
        Meta(description="Above 1, tokens of prompt and answer become less likely."),
    ] = None
    logit_bias: Annotated[
        dict[_TokenNumber, Annotated[float, Meta(ge=-100, le=100)]] | None,
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

    messages: Annotated[
        list[Turn], Meta(min_length=1, description="The conversation, its last message last.")
    ]
    max_completion_tokens: Annotated[
        _Tokens | None, Meta(description="Another name of max_tokens.")
    ] = None
    logprobs: Annotated[
        bool | None, Meta(description="Tell how likely the model found each token.")
    ] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(description="So many most likely tokens beside each; goes with `logprobs`."),
    ] = None
    response_format: Annotated[
        ResponseFormat | None, Meta(description="Form of the answer; without it, text.")
    ] = None
    tools: Annotated[
        Annotated[list[FunctionTool], Meta(max_length=128)] | None,
        Meta(description="Functions that the model may call."),
    ] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool | None,
        Meta(description="Whether, and which; without it `auto`."),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Meta(description="Several calls in one answer; without it, true.")
    ] = None


class CompletionBody(Sampling, frozen=True, kw_only=True):
    """A request for a completion of raw text."""

    prompt: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1)],
        Meta(description="The text to go on with; no chat template is put around it."),
    ]
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(description="Tell how likely each token was, and so many most likely ones beside it."),
    ] = None
