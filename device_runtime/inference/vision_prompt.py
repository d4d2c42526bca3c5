"""Prompts with images: the text around images, and the tokens that stand for them.

Text becomes tokens by the model's own tokenizer, as without images. How many tokens an image takes,
and which, is what the engine's image processor says; each family has its own.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import ImageError, Message, Part
from device_runtime.inference.image_file import to_png
from device_runtime.inference.vision_families import MARKED
from device_runtime.tokenizer.tokenizer import Tokenizer

Process = Callable[[str, list[bytes]], tuple[list[int], Any]]
"""The engine's image processor: a prompt and PNG files in, token ids and tensors out."""


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

    def turns(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        """Write turns in the form that the chat template takes."""
        for message in messages:
            turn = msgspec.to_builtins(msgspec.structs.replace(message, content=""))
            yield turn | {"content": self._content(message.content)}

    def encode(self, text: str, images: list[bytes]) -> tuple[list[int], Any]:
        """Encode a rendered conversation.

        Args:
            text: the conversation, with a marker for each image.
            images: the files of the images, in the order of the text.

        Returns:
            The token ids, and the engine's tensors of the images.

        Raises:
            ImageError: an image cannot be used.
            RequestError: the text has other marks of images, or too few.
            NoMemoryNowError: memory is too short to decode an image.
        """
        pieces = text.split(self._marker)
        if len(pieces) != len(images) + 1:
            raise RequestError(
                f"the prompt has {len(images)} images and {len(pieces) - 1} marks of images; "
                f"this model marks an image with {self._marker!r}",
                hint="Leave that text out of messages, and images out of turns that cannot have "
                "one.",
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

    def _content(self, content: str | Sequence[Part]) -> str | list[dict[str, str]]:
        if isinstance(content, str):
            return content
        if self._family is None:
            return "\n".join(part if isinstance(part, str) else self._marker for part in content)
        return [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in content
        ]

    def _text_ids(self, pieces: list[str], number: int) -> list[int]:
        """Encode one of the texts between images."""
        text = pieces[number]
        if self._family is None:
            return self._tokenizer.encode(text, special=True)
        before = self._family.around if number else ""
        after = self._family.around if number < len(pieces) - 1 else ""
        return self._tokenizer.encode(before + text + after, special=False)

    def _images(self, images: list[bytes]) -> tuple[list[list[int]], Any]:
        """Process images: the token ids of each, and the tensors of all."""
        count = len(images)
        files = [_png(data, number, count) for number, data in enumerate(images, 1)]
        markers = [self._marker] * count
        if self._family is None:
            markers = [f"<|image_{number}|>" for number in range(1, count + 1)]
        ids, tensors = self._process(" ".join(markers), files)
        if self._family is None:
            blocks = [[-number] * ids.count(-number) for number in range(1, count + 1)]
        else:
            blocks = list(self._blocks(ids))
        if len(blocks) != count or not all(blocks):
            raise EngineError(f"the image processor made {len(blocks)} images of {count}")
        return blocks, tensors

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


def _png(data: bytes, number: int, count: int) -> bytes:
    try:
        return to_png(data)
    except ImageError as error:
        if count == 1:
            raise
        raise ImageError(f"image {number} of {count}: {error}", hint=error.hint) from None
