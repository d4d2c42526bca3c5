"""Image files into pixels as the engine takes them.

The engine decodes JPEG and PNG itself, but a damaged JPEG ends its process or never ends, and it
knows no WebP and no orientation, and drops transparency. So Pillow decodes here, with its plugins
for three formats, and the engine gets a PNG without compression.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from device_runtime import memory
from device_runtime.errors import DeviceError
from device_runtime.inference.engine import ImageError, NoMemoryNowError
from device_runtime.inference.image_header import (
    PNG_SIGNATURE,
    Format,
    ImageHeader,
    damaged,
    read_header,
)

MAX_BYTES = 16 << 20
"""Largest file."""

MAX_PIXELS: dict[Format, int] = {"JPEG": 50_000_000, "PNG": 40_000_000, "WebP": 16_000_000}
"""Most pixels of a file, at which decoding takes about 300, 200 and 300 MB. Phones take photos of
12 megapixels, some of 50; a larger JPEG that is not progressive is decoded smaller."""

MAX_RATIO = 50
"""Largest ratio of the sides. The engine makes nothing of an image whose shorter side its
transforms round to 0, and fails; and nothing is to be seen on a strip."""

AREA = 2048 * 2048
"""Pixels that the engine gets at most: more than any family's transform leaves, at most 16 x 336 x
336 for Phi-3.5-vision. With `MAX_RATIO`, a side has at most 14,482, of 16,384 that it takes."""

_DECODERS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}

_BYTES_A_PIXEL: dict[Format, int] = {"JPEG": 6, "PNG": 5, "WebP": 20}
"""Memory for decoding: coefficients of a progressive JPEG, rows of an image, or three canvases."""

_STRIP = 64
"""Rows that a large image is made smaller by at a time."""

_RESERVE = 64 << 20
"""Memory that decoding must leave free, bytes."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns of images that are not upright, by their orientation (EXIF 2.32, 4.6.4 A)."""


def to_png(data: bytes) -> bytes:
    """Decode a file into a PNG: RGB of 8 bits, upright, over white, at most `AREA` pixels.

    Colour profiles are ignored, as models' own processors do.

    Raises:
        ImageError: the file cannot be used.
        NoMemoryNowError: memory is too short to decode it.
    """
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"the image has {len(data)} bytes; at most {MAX_BYTES} are allowed",
            hint="Send a smaller image.",
        )
    header = read_header(data)
    _check(header)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _encoded(_decoded(header))
    except DeviceError:
        raise
    except MemoryError:
        raise _too_little_memory() from None
    except Exception as error:
        # Pillow raises errors of many kinds for what it cannot read.
        raise damaged(error) from None


def _check(header: ImageHeader) -> None:
    """Refuse an image by its header, before anything is decoded.

    Raises:
        ImageError: it is too large or too narrow.
        NoMemoryNowError: memory is too short to decode it.
    """
    width, height = header.width, header.height
    size = f"the image has {width} x {height} pixels"
    if not width or not height:
        raise damaged("it has no pixels")
    if width * height > MAX_PIXELS[header.format]:
        raise ImageError(
            f"{size}; at most {MAX_PIXELS[header.format]} are allowed in a {header.format} file",
            hint="Send a smaller image.",
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"{size}: one side must not be more than {MAX_RATIO} times as long as the other",
            hint="Cut a part out of it.",
        )
    needed = width * height * _BYTES_A_PIXEL[header.format]
    if memory.available() < needed + _RESERVE:
        raise _too_little_memory()


def _too_little_memory() -> NoMemoryNowError:
    return NoMemoryNowError(
        "the device has too little free memory for this image", hint="Send a smaller image."
    )


def _decoded(header: ImageHeader) -> Image.Image:
    """Decode an image into RGB, at most `AREA` pixels, upright."""
    size = header.width, header.height
    with _DECODERS[header.format](io.BytesIO(header.data)) as image:
        if image.size != size:
            raise damaged("it has several sizes")
        factor = min(1.0, math.sqrt(AREA / (header.width * header.height)))
        target = max(1, round(header.width * factor)), max(1, round(header.height * factor))
        image.draft(None, target)
        image.load()
        small = _shrunk(image, target)
    turn = _TURNS.get(header.orientation)
    return small if turn is None else small.transpose(turn)


def _shrunk(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Return an image over white in this size; one of it already stays as it is, bit for bit."""
    width, height = image.size
    factor = min(width // target[0], height // target[1])
    if factor > 1:
        # In strips, for a second image of the whole size would double the memory.
        small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for top in range(0, height, factor * _STRIP):
            bottom = min(height, top + factor * _STRIP)
            strip = _over_white(image.crop((0, top, width, bottom)))
            small.paste(strip.reduce(factor), (0, top // factor))
    else:
        small = _over_white(image)
    return small if small.size == target else small.resize(target, Image.Resampling.LANCZOS)


def _over_white(image: Image.Image) -> Image.Image:
    """Convert an image into RGB, over white where it is transparent."""
    if image.mode.startswith("I"):
        # 16 bits of grey: the conversion would cut values above 255.
        return image.convert("I").point(lambda value: value / 256).convert("RGB")
    if "A" not in image.mode and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _encoded(image: Image.Image) -> bytes:
    """Encode an RGB image as a PNG without compression."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    # Each row begins with its filter: none.
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
