"""The part of a manifest that describes how a model sees."""

from typing import Annotated

from msgspec import Meta

from device_runtime.bundle.quantization import Struct

Family = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]


class Vision(Struct, frozen=True, kw_only=True):
    """Images in the prompts of a model.

    Attributes:
        family: type of the model as ONNX Runtime GenAI names it, such as `phi3v`.
        image_tokens: most tokens that one image takes in a prompt.
    """

    family: Family
    image_tokens: Annotated[int, Meta(ge=1, le=2**20)]
