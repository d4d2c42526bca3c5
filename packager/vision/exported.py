"""Result of exporting a vision part, for the writer of genai_config.json."""

import msgspec

GRAPH = "vision.onnx"
"""Name of the graph; large weights are beside it, in `vision.onnx.data`."""

PROCESSOR = "processor_config.json"
"""Name of the file with the engine's image transforms."""


class VisionError(Exception):
    """The vision part of a model is not as its family's exporter reads it; the message is for the
    user."""


class ExportedVision(msgspec.Struct, frozen=True, kw_only=True):
    """An exported vision part.

    Attributes:
        type: type of the whole model in genai_config.json.
        inputs: names of the graph's inputs, those of genai_config.json.
        image_tokens: most tokens of one picture.
        image_token: id of the token that stands for a part of a picture; None if the engine writes
            negative numbers, -1 for the first picture.
        both_ways: tokens of a picture see each other, also those after them.
        sections: for tokens with three positions, how many pairs of each head's numbers times,
            rows and columns rotate; empty for those with one.
        tokens: ids of further tokens in genai_config.json, by name.
        sizes: further numbers of the vision section in genai_config.json, by name.
    """

    type: str
    inputs: tuple[str, ...]
    image_tokens: int
    image_token: int | None
    both_ways: bool = False
    sections: tuple[int, ...] = ()
    tokens: dict[str, int] = {}
    sizes: dict[str, int] = {}
