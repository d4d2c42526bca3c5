"""The objects of Ollama's responses: they are what is encoded, sent and documented.

Sources: Ollama's docs/api.md, and the types of the package `ollama`, 0.6. Durations are in
nanoseconds.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from device_runtime.api.errors import ApiError
from device_runtime.api.response_types import TokenLogprobs

DoneReason = Literal["stop", "length", "load", "unload"]
Capability = Literal["completion", "tools", "thinking", "vision", "embedding"]


class OllamaFunction(msgspec.Struct, frozen=True):
    """A function that is called."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCall(msgspec.Struct, frozen=True):
    """A tool call; it is sent whole."""

    id: str
    function: OllamaFunction


class OllamaMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """The model's message, or the next part of it."""

    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: Annotated[
        list[OllamaCall] | UnsetType,
        Meta(description="A call that the limit of tokens cuts off is left out."),
    ] = UNSET


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a whole answer, and of the last part of a streamed one."""

    done_reason: DoneReason | UnsetType = UNSET
    total_duration: Annotated[
        int | UnsetType, Meta(description="From the request to the end of the answer.")
    ] = UNSET
    load_duration: Annotated[
        int | UnsetType, Meta(description="0: a model is loaded before it is asked.")
    ] = UNSET
    prompt_eval_count: Annotated[int | UnsetType, Meta(description="Tokens of the prompt.")] = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: Annotated[int | UnsetType, Meta(description="Tokens of the answer.")] = UNSET
    eval_duration: int | UnsetType = UNSET


class OllamaAnswerObject(Done, frozen=True, kw_only=True):
    """The fields that answers of both types share."""

    model: Annotated[str, Meta(description="The model's name as in the request.")]
    created_at: datetime
    done: Annotated[bool, Meta(description="True for the last part of an answer.")]
    logprobs: list[TokenLogprobs] | UnsetType = UNSET


class OllamaChatResponse(OllamaAnswerObject, frozen=True, kw_only=True):
    """The answer to a chat, or the next part of it."""

    message: OllamaMessage


class OllamaGenerateResponse(OllamaAnswerObject, frozen=True, kw_only=True):
    """The answer to a prompt, or the next part of it."""

    response: str
    thinking: str | UnsetType = UNSET


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Details of a model."""

    parent_model: str = ""
    format: str = "onnx"
    family: Annotated[str, Meta(description="The model's architecture.")]
    families: list[str]
    parameter_size: Annotated[str, Meta(description="Number of weights; empty if not known.")]
    quantization_level: Annotated[str, Meta(description="Recipe of the weights.")]


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model, a model with one of its adapters, or the embedding model."""

    name: str
    model: str
    modified_at: Annotated[datetime, Meta(description="Start of the service.")]
    size: Annotated[int, Meta(description="Size of the model's files, bytes.")]
    digest: Annotated[str, Meta(description="Digest of the release.")]
    details: ModelDetails


class ModelTags(msgspec.Struct, frozen=True):
    """All models."""

    models: list[ListedModel]


class RunningModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in memory."""

    name: str
    model: str
    size: Annotated[int, Meta(description="Memory of the process that has the model, bytes.")]
    digest: str
    details: ModelDetails
    expires_at: Annotated[datetime, Meta(description="Far away: the device decides.")]
    size_vram: Annotated[int, Meta(description="0: memory of a GPU is not measured.")] = 0
    context_length: int


class RunningModels(msgspec.Struct, frozen=True):
    """The models in memory."""

    models: list[RunningModel]


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a model."""

    modelfile: str = ""
    parameters: str = ""
    template: Annotated[str, Meta(description="The chat template, in Jinja.")]
    license: Annotated[str, Meta(description="SPDX expression; empty if not known.")]
    modified_at: datetime
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: Annotated[
        list[Capability],
        Meta(description="An embedding model has `embedding` alone."),
    ]


class OllamaVersion(msgspec.Struct, frozen=True):
    """The version of Ollama's API that is followed here."""

    version: str


class OllamaError(msgspec.Struct, frozen=True):
    """The body of a response that is not 2xx, and the last line of a failed answer."""

    error: Annotated[str, Meta(description="The problem and what to do, for people.")]

    @classmethod
    def of(cls, error: ApiError) -> "OllamaError":
        """Write an error as Ollama's API does."""
        return cls(str(error))
