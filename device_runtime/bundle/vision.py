"""The part of a manifest that describes how a model sees."""

from typing import Annotated, Literal

from msgspec import Meta

from device_runtime.bundle.fields import Bytes, Line, Text
from device_runtime.bundle.quantization import Quality, Struct

Family = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]

VisionWeights = Literal["int8", "fp16", "fp32"]
"""Types of the weights of a vision graph, smallest first."""


class PictureAnswer(Struct, frozen=True, kw_only=True):
    """The greedy answers of both models to the same question about a picture.

    Attributes:
        picture: name of the picture.
        prompt: the question.
        reference: answer of the reference model.
        quantized: answer of the model in the bundle.
    """

    picture: Line
    prompt: Text
    reference: Text
    quantized: Text


class TriedVision(Struct, frozen=True, kw_only=True):
    """The vision graph with weights of a type, and the model with it.

    Attributes:
        weights: type of the weights.
        vision_bytes: size of the vision graph and its weights.
        quality: of the whole model on pictures.
        exceeded: why it was not taken, one phrase for each limit; empty if it could be.
    """

    weights: VisionWeights
    vision_bytes: Bytes
    quality: Quality
    exceeded: Annotated[tuple[Line, ...], Meta(max_length=32)]


class Vision(Struct, frozen=True, kw_only=True):
    """Images in the prompts of a model.

    Attributes:
        family: type of the model as ONNX Runtime GenAI names it, such as `phi3v`.
        image_tokens: most tokens that one image takes in a prompt.
        weights: type of the weights of the vision graph; None for a model that came as ONNX.
        quality: quality of the model on pictures; None if it was not measured.
        tried: types of weights that the build tried.
        answers: both models' answers to questions about pictures.
    """

    family: Family
    image_tokens: Annotated[int, Meta(ge=1, le=2**20)]
    weights: VisionWeights | None = None
    quality: Quality | None = None
    tried: Annotated[tuple[TriedVision, ...], Meta(max_length=8)] = ()
    answers: Annotated[tuple[PictureAnswer, ...], Meta(max_length=100)] = ()
