"""Fuzz image files: decoded as their header says, or refused."""

import random
import struct
from collections.abc import Iterator

from device_runtime.inference.engine import ImageError
from device_runtime.inference.image_file import to_png
from device_runtime.inference.image_header import read_header
from tests.fuzz.binary import mutated
from tests.support.hostile_images import hostile_images

MAX_SEED = 1 << 14
MAX_PIXELS = 1_000_000
"""Larger images are not decoded: that takes longer than an input may."""

NUMBERS = tuple(
    struct.pack(form, number)
    for form in (">H", "<H", ">I", "<I")
    for number in (0, 1, 0x7FFF, 0xFFFF, *((2**31 - 1, 2**32 - 1) if form[1] == "I" else ()))
)


def run(data: bytes) -> None:
    try:
        header = read_header(data)
        if header.width * header.height > MAX_PIXELS:
            return
        png = to_png(data)
    except ImageError:
        return
    size = header.width, header.height
    turned = size[::-1] if header.orientation > 4 else size
    assert struct.unpack_from(">II", png, 16) == turned


def seeds() -> Iterator[bytes]:
    for image in hostile_images():
        if image.size is not None and len(image.data) < MAX_SEED:
            yield image.data


def mutate(data: bytes, source: random.Random) -> bytes:
    return mutated(data, source, NUMBERS)
