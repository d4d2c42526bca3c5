"""Images of requests: the forms in which they come, and their limits. Pure functions."""

import binascii
import itertools
import re

import msgspec

from device_runtime.api.errors import ApiError
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import Image, Message, Part

MAX_IMAGES = 8
"""Most images of a request."""
MAX_IMAGE_BYTES = 10 << 20
"""Largest file of an image: photos of phones have 2 to 5 MB."""

_DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4}?;base64,", re.IGNORECASE)
"""The beginning of a data URL (RFC 2397). The model's process finds out what the data are."""


class LinkedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a request refers to by a link, and that is not loaded yet.

    Attributes:
        number: its number among the images of the prompt, from 0; until it is loaded, the one in
            the prompt has no data.
        link: URL, or path of a file on the device.
        place: path of its field in the request, for errors.
    """

    number: int
    link: str
    place: str


class ImageReader:
    """Reads the images of one request, in the order of its prompt.

    Args:
        served: the model to answer the request.

    Attributes:
        links: the images to load.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._count = 0
        self.links: list[LinkedImage] = []

    def read(self, url: str, place: str) -> Image:
        """Return an image: with its data, or without if it must be loaded.

        Args:
            url: data URL, or a link.
            place: path of its field in the request, for errors.

        Raises:
            ApiError: the model takes text alone, there are too many images, or the data are not
                valid.
        """
        if self._served.vision is None:
            raise ApiError(
                f"{place} is not supported: the model {self._served.model!r} takes text alone",
                param=place,
                code="unsupported_value",
            )
        if self._count == MAX_IMAGES:
            raise ApiError(
                f"{place} is one image too many: at most {MAX_IMAGES} are allowed in a request",
                param=place,
                code="too_many_images",
            )
        number, self._count = self._count, self._count + 1
        if url[:5].lower() == "data:":
            return Image(_decoded(url, place))
        self.links.append(LinkedImage(number=number, link=url, place=place))
        return Image(b"")


def _decoded(url: str, place: str) -> bytes:
    start = _DATA_URL.match(url)
    if start is None:
        raise invalid_image(place, "is not a data URL with base64")
    if (len(url) - start.end()) // 4 * 3 > MAX_IMAGE_BYTES + 2:
        raise too_large(place)
    try:
        data = binascii.a2b_base64(url[start.end() :], strict_mode=True)
    except ValueError:
        raise invalid_image(place, "is not valid base64") from None
    if not data:
        raise invalid_image(place, "is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise too_large(place)
    return data


def invalid_image(place: str, problem: str, code: str = "invalid_image") -> ApiError:
    """Return the error for an image that cannot be used; `place` is the path of its field."""
    return ApiError(f"{place} {problem}", param=place, code=code)


def too_large(place: str) -> ApiError:
    """Return the error for an image above the limit; `place` is the path of its field."""
    return invalid_image(
        place, f"exceeds {MAX_IMAGE_BYTES >> 20} MiB; send a smaller image", "image_too_large"
    )


def with_images(messages: tuple[Message, ...], loaded: dict[int, Image]) -> tuple[Message, ...]:
    """Put loaded images into a prompt, by their numbers."""
    numbers = itertools.count()

    def whole(part: Part) -> Part:
        return part if isinstance(part, str) else loaded.get(next(numbers), part)

    return tuple(
        message
        if isinstance(message.content, str)
        else msgspec.structs.replace(message, content=tuple(map(whole, message.content)))
        for message in messages
    )
