"""Prompts with images: the text around images, and the tokens that stand for them.

Text becomes tokens by the model's own tokenizer, as without images. How many tokens an image takes,
and which, is what the engine's image processor says; each family has its own.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from device_runtime import memory
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import ImageError, Message, NoMemoryNowError, images_of
from device_runtime.inference.image_file import to_png
from device_runtime.inference.vision_families import MARKED
from device_runtime.tokenizer.tokenizer import Tokenizer

Tensors = dict[str, Any]
"""Tensors of the engine, or arrays."""

Process = Callable[[str, list[bytes]], Tensors]
"""The engine's image processor: a prompt and PNG files in, token ids and pixels out."""

IMAGE_BYTES = 64 << 20
"""Memory that processing an image takes: 17 crops for Phi-3.5-vision, and their copies."""

_GRIDS = "image_grid_thw"
"""Tensor [images, 3] of times, rows and columns of patches, of the Qwen-VL families."""

Render = Callable[[list[dict[str, Any]]], str]


class VisionPrompts:
    """Writes prompts with images for one model.

    Args:
        family: the model's type, one of `FAMILIES`.
        tokenizer: the model's tokenizer.
        process: the engine's image processor.
    """

    def __init__(self, family: str, tokenizer: Tokenizer, process: Process) -> None:
        self._family = MARKED.get(family)
        self._tokenizer = tokenizer
        self._process = process
        names = self._family.tokens if self._family else ()
        self._ids = [tokenizer.id_of(name) for name in names]
        # One that nobody can write, where it is ours to choose.
        self._marker = self._family.marker if self._family else f"<image {secrets.token_hex(16)}>"

    def encode(self, messages: Sequence[Message], render: Render) -> tuple[list[int], Tensors]:
        """Encode a conversation.

        Args:
            messages: the turns.
            render: the model's chat template.

        Returns:
            The token ids, and what the processor made of the images.

        Raises:
            ImageError: an image cannot be used.
            RequestError: the template rejects the conversation, or leaves images out, or a text has
                marks of images, or the engine does not take the images together.
            NoMemoryNowError: memory is too short for the images.
        """
        images = images_of(messages)
        pieces = self._rendered(messages, render, len(images)).split(self._marker)
        if len(pieces) <= len(images):
            raise RequestError(
                "the model's chat template leaves out an image",
                hint="Send images in messages of users.",
            )
        if len(pieces) > len(images) + 1:
            raise RequestError(
                f"a text of the prompt has {self._marker!r}, which stands for an image",
                hint="Leave it out.",
            )
        texts = [self._text_ids(pieces, number) for number in range(len(pieces))]
        for ids in texts:
            self.check(ids)
        blocks, tensors = self._images(images)
        tokens = texts[0]
        for block, ids in zip(blocks, texts[1:], strict=True):
            tokens += block + ids
        return tokens, tensors

    def check(self, ids: Sequence[int]) -> None:
        """Check that the tokens of a text do not stand for parts of images.

        Raises:
            RequestError: one of them does.
        """
        for token, name in zip(self._ids, self._family.tokens if self._family else (), strict=True):
            if token in ids:
                raise RequestError(
                    f"the prompt has the token {name!r}, which stands for a part of an image",
                    hint="Leave it out.",
                )

    def _rendered(self, messages: Sequence[Message], render: Render, count: int) -> str:
        """Render a conversation, with a marker for each image."""
        if self._family is not None:
            try:
                text = render([self._turn(message, listed=True) for message in messages])
                if text.count(self._marker) >= count:
                    return text
            except RequestError:
                # A template that takes text alone.
                pass
        return render([self._turn(message, listed=False) for message in messages])

    def _turn(self, message: Message, *, listed: bool) -> dict[str, Any]:
        """Write a turn as a chat template takes it: with a list of parts, or with text alone."""
        turn: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(message, content=""))
        parts = message.content
        if isinstance(parts, str):
            return turn | {"content": parts}
        if listed:
            types = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in parts
            ]
            return turn | {"content": types}
        between = "" if self._family else "\n"
        texts = (part if isinstance(part, str) else self._marker for part in parts)
        return turn | {"content": between.join(texts)}

    def _text_ids(self, pieces: list[str], number: int) -> list[int]:
        """Encode one of the texts between images."""
        text = pieces[number]
        if self._family is None:
            return self._tokenizer.encode(text, special=True)
        before = self._family.around if number else ""
        after = self._family.around if number < len(pieces) - 1 else ""
        return self._tokenizer.encode(before + text + after, special=False)

    def _images(self, images: list[bytes]) -> tuple[list[list[int]], Tensors]:
        """Process images: the token ids of each, and the tensors of all."""
        count = len(images)
        if memory.available() < count * IMAGE_BYTES:
            raise NoMemoryNowError(
                f"the device has too little free memory for {count} images",
                hint="Send fewer images, or stop other programs on the device.",
            )
        files = [_png(data, number, count) for number, data in enumerate(images, 1)]
        markers = [self._marker] * count
        if self._family is None:
            markers = [f"<|image_{number}|>" for number in range(1, count + 1)]
        try:
            tensors = self._process(" ".join(markers), files)
        except RuntimeError as error:
            if count == 1 or memory.is_short(error):
                raise
            # That of LFM2-VL wants one that is the largest in both directions.
            raise RequestError(
                "the engine's image processor does not take these images together",
                hint="Send one image, or images of the same size.",
            ) from None
        ids = tensors["input_ids"].as_numpy()[0].tolist()
        if self._family is None:
            blocks = [[-number] * ids.count(-number) for number in range(1, count + 1)]
        else:
            blocks = list(self._blocks(ids))
            if self._family.padded and count > 1:
                tensors["pixel_values"] = self._padded(files)
            if _GRIDS in tensors and count > 1:
                tensors["pixel_values"] = _unpadded(tensors)
        if len(blocks) != count or not all(blocks):
            raise EngineError(f"the image processor lost one of {count} images")
        return blocks, tensors

    def _padded(self, files: list[bytes]) -> npt.NDArray[Any]:
        """Process images each by itself, and pad them to the same size with zeros."""
        pixels = [
            self._process(self._marker, [file])["pixel_values"].as_numpy()[0] for file in files
        ]
        height, width = (max(array.shape[axis] for array in pixels) for axis in (1, 2))
        padded = np.zeros((len(pixels), len(pixels[0]), height, width), pixels[0].dtype)
        for place, array in zip(padded, pixels, strict=True):
            place[:, : array.shape[1], : array.shape[2]] = array
        return padded

    def _blocks(self, ids: list[int]) -> Iterator[list[int]]:
        """Cut the tokens of each image out of the processor's, from its first to its last."""
        first, last = self._ids[0], self._ids[-1]
        start = None
        for place, token in enumerate(ids):
            if token == first and start is None:
                start = place
            elif token == last and start is not None:
                yield ids[start : place + 1]
                start = None


def _unpadded(tensors: Tensors) -> npt.NDArray[Any]:
    """Take out the patches by which the engine makes all images as long as the longest.

    It takes the patches of one image after the other's, without any between them.
    """
    grids = tensors[_GRIDS].as_numpy()
    pixels = tensors["pixel_values"].as_numpy()
    images = pixels.reshape(len(grids), -1, pixels.shape[-1])
    counts = grids.prod(axis=1)
    return np.concatenate([image[:count] for image, count in zip(images, counts, strict=True)])


def _png(data: bytes, number: int, count: int) -> bytes:
    try:
        return to_png(data)
    except ImageError as error:
        if count == 1:
            raise
        raise ImageError(f"image {number} of {count}: {error}", hint=error.hint) from None
