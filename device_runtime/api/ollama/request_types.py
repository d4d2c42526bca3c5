"""The bodies of Ollama's requests: fields, types and bounds.

Sources: Ollama's docs/api.md, and the types of the package `ollama`, 0.6. The descriptions of
fields appear in the API's document.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.api.chat_types import Function, Name
from device_runtime.api.images import MAX_IMAGES
from device_runtime.api.request_types import MAX_STOPS

CHAT_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"truncate": (False,), "shift": (False,)}
"""Unsupported fields of a chat, and the values besides null that request nothing."""

GENERATE_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = CHAT_WITHOUT_EFFECT | {
    "context": ([],),
    "suffix": ("",),
    "template": ("",),
    "width": (0,),
    "height": (0,),
    "steps": (0,),
}
"""The same for a completion."""

SHOW_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"system": ("",), "template": ("",)}
"""The same for a request for the description of a model."""

OPTIONS_IGNORED = frozenset(
    {
        "draft_num_predict",
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "repeat_last_n",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Options that the device decides itself, its context length among them: it cuts no prompt."""

OPTIONS_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
"""Unsupported options, and the values besides null that request nothing."""

_Ignored = Annotated[Any, Meta(description="Ignored.")]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


_Images = Annotated[
    Annotated[list[str], Meta(max_length=MAX_IMAGES)] | None,
    Meta(description="Images of a user, in base64, for models that see; they precede the text."),
]


class OllamaCalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function and the arguments of its call."""

    name: Name
    arguments: dict[str, Any]
    index: _Ignored = None


class OllamaToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the assistant made."""

    function: OllamaCalledFunction
    id: str | None = None
    type: _Ignored = None


class OllamaMessageParam(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: _Images = None
    thinking: str | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: Annotated[
        str | None,
        Meta(description="Only with the role `tool`: the function that returned this result."),
    ] = None
    tool_call_id: Annotated[
        str | None,
        Meta(
            description="Only with the role `tool`: the call that returned this result. Without "
            "it and `tool_name`, results belong to the calls before them in their order."
        ),
    ] = None


class OllamaTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions are supported."""

    function: Function
    type: Literal["function"] | None = None


class OllamaOptions(msgspec.Struct, frozen=True):
    """Options of the answer; those that the device decides itself are ignored."""

    num_predict: Annotated[
        Annotated[int, Meta(ge=-2, le=2**31 - 1)] | None,
        Meta(description="Maximum tokens of the answer; 0 or less for as many as fit."),
    ] = None
    stop: Annotated[
        Annotated[str, Meta(min_length=1)]
        | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOPS)]
        | None,
        Meta(description="Strings before which the answer ends."),
    ] = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that both types of request share."""

    model: Annotated[
        str, Meta(description="The device's model, or `MODEL:ADAPTER`; `:latest` may follow.")
    ]
    stream: Annotated[
        bool | None, Meta(description="Stream the answer as lines of JSON; the default is true.")
    ] = None
    format: Annotated[
        Literal["", "json"] | dict[str, Any] | None,
        Meta(description="`json`, or a JSON schema; see docs/structured-output.md."),
    ] = None
    options: OllamaOptions | None = None
    think: Annotated[
        bool | Literal["low", "medium", "high"] | None,
        Meta(description="Whether to think first, and how much; the default is the model's own."),
    ] = None
    keep_alive: Annotated[float | str | None, Meta(description="Ignored: the device decides.")] = (
        None
    )
    logprobs: Annotated[
        bool | None, Meta(description="Return the log probability of each token.")
    ] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None, Meta(description="As in a chat completion.")
    ] = None


class OllamaChatBody(Body, frozen=True, kw_only=True):
    """A request for a chat; without messages, the model is loaded."""

    messages: Annotated[
        list[OllamaMessageParam] | None, Meta(description="The conversation, oldest message first.")
    ] = None
    tools: Annotated[
        Annotated[list[OllamaTool], Meta(max_length=128)] | None,
        Meta(description="Tools that may be called."),
    ] = None


class OllamaGenerateBody(Body, frozen=True, kw_only=True):
    """A request for an answer to one prompt; without a prompt, the model is loaded."""

    prompt: str | None = None
    images: _Images = None
    system: Annotated[str | None, Meta(description="The system prompt.")] = None
    raw: Annotated[bool | None, Meta(description="Apply no chat template.")] = None


class ShowBody(msgspec.Struct, frozen=True):
    """A request for the description of a model."""

    model: str
    verbose: _Ignored = None
