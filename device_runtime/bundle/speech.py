"""The part of a manifest that describes the speech model."""

from typing import Annotated, Literal

from msgspec import Meta

from device_runtime.bundle.fields import Bytes, Line
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.quantization import Quality, Struct

Language = Annotated[str, Meta(pattern=r"^[a-z]{2,3}\Z")]

SpeechWeights = Literal["int4", "int8", "fp32"]
"""Types of the weights of a speech model, smallest first."""


class TriedSpeech(Struct, frozen=True, kw_only=True):
    """The speech model with weights of a type.

    Attributes:
        weights: type of the weights.
        model_bytes: size of graphs and weights.
        quality: of its decoder, on the same recordings and texts.
        exceeded: limits that it exceeds, one phrase each; empty if it was within them.
    """

    weights: SpeechWeights
    model_bytes: Bytes
    quality: Quality
    exceeded: Annotated[tuple[Line, ...], Meta(max_length=32)]


class Speech(Struct, frozen=True, kw_only=True):
    """A speech model beside the model that answers: recordings to text.

    Attributes:
        model: the model.
        weights: type of its weights.
        languages: languages that it knows, ISO 639; the only one of a model of one language.
        memory_bytes: estimate of the resident memory that it adds, bytes.
        quality: quality of the model against its reference model; None if it was not measured.
        tried: types of weights that the build tried.
    """

    model: ModelFacts
    weights: SpeechWeights
    languages: Annotated[tuple[Language, ...], Meta(min_length=1, max_length=256)]
    memory_bytes: Bytes
    quality: Quality | None = None
    tried: Annotated[tuple[TriedSpeech, ...], Meta(max_length=8)] = ()
