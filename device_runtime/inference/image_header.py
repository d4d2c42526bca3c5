"""Headers of image files, read without a decoder: what an image is, before anything is decoded.

A file comes from anyone. Pillow reads all of its metadata, some of them in ways that a small file
can make take gigabytes or minutes: EXIF data whose entries all refer to the same megabytes, a
million empty segments, thousands of scans over the same pixels. So the parts that pixels are made
of are taken out of the file here, in one pass with bounds, and only those reach the decoder.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from device_runtime.inference.engine import ImageError

Format = Literal["JPEG", "PNG", "WebP"]

MAX_PARTS = 20_000
"""Most segments or chunks of a file. Large photos have some hundreds; a PNG of 16 MB in chunks of
1 KB, as some programs write it, has 16,000."""

MAX_SCANS = 100
"""Most passes over the pixels of a JPEG; a progressive photo has about ten."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_ORIENTATION = 0x0112
_SHORT = 3  # EXIF 2.32, 4.6.2: a number of two bytes

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker of JPEG; not escaped bytes of pixels, nor restarts between them."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ALONE, _END, _SCAN, _EXIF, _ADOBE, _COMMENT = {0x01, 0xD8}, 0xD9, 0xDA, 0xE1, 0xEE, 0xFE
_APPLICATION = range(0xE0, 0xF0)
"""Second bytes of markers (ITU T.81, table B.1)."""

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """An image file before it is decoded.

    Attributes:
        format: format of the file.
        width: width of the stored image, pixels.
        height: height of the stored image, pixels.
        orientation: how it is to be turned, 1 to 8 as in EXIF; 1 for not at all.
        progressive: whether it is a progressive JPEG, which is decoded as a whole.
        data: the file with the parts that pixels are made of.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    progressive: bool = False
    data: bytes


def read_header(data: bytes) -> ImageHeader:
    """Read the header of a file.

    Raises:
        ImageError: the file is not a JPEG, PNG or WebP file, or it is damaged or animated.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise damaged("its header is cut") from None
    raise ImageError(
        "the image is not a JPEG, PNG or WebP file", hint="Convert it to one of these formats."
    )


def damaged(reason: object) -> ImageError:
    """Return the error for a file that cannot be decoded."""
    return ImageError(f"the image is damaged: {reason}", hint="Send a whole file.")


def _jpeg(data: bytes) -> ImageHeader:
    kept = [data[:2]]
    frames: list[tuple[int, int, bool]] = []
    scans, orientation = 0, 1
    for start, code, body in _jpeg_segments(data):
        if code == _SCAN:
            scans += 1
            if scans == 1:
                kept.append(data[start:])
        elif code in _FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            frames.append((width, height, code in _PROGRESSIVE))
        elif code == _EXIF and body.startswith(b"Exif\0\0") and orientation == 1:
            orientation = _orientation(body[6:])
        if not scans and code not in {*_APPLICATION, _COMMENT} - {_ADOBE}:
            kept.append(data[start : start + 4 + len(body)])
    if scans > MAX_SCANS:
        raise damaged(f"it has {scans} scans; at most {MAX_SCANS} are allowed")
    if len(frames) != 1 or not scans:
        raise damaged("it has no image" if not frames or not scans else "it has several images")
    ((width, height, progressive),) = frames
    return ImageHeader(
        format="JPEG",
        width=width,
        height=height,
        orientation=orientation,
        progressive=progressive,
        data=b"".join(kept),
    )


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield place, second byte of the marker, and body of each segment, up to the image's end."""
    place = 2
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, place)
        if marker is None or marker[1][0] == _END:
            return
        place = marker.end()
        if marker[1][0] in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        yield marker.start(), marker[1][0], data[place + 2 : place + length]
        place += max(2, length)
    raise _too_many_parts()


def _png(data: bytes) -> ImageHeader:
    kept = [PNG_SIGNATURE]
    sizes: list[tuple[int, int]] = []
    orientation = 1
    for kind, place, length in _chunks(data, len(PNG_SIGNATURE), ">I4s", 4):
        body = data[place : place + min(length, 1 << 16)]
        if kind == b"IHDR":
            sizes.append(struct.unpack_from(">II", body))
        elif kind == b"acTL" and struct.unpack_from(">I", body)[0] > 1:
            raise _animated()
        elif kind == b"eXIf":
            orientation = _orientation(body)
        if kind in _PIXEL_CHUNKS:
            kept.append(data[place - 8 : place + length + 4])
        if kind == b"IEND":
            break
    if len(sizes) != 1:
        raise damaged("it has no size" if not sizes else "it has several sizes")
    ((width, height),) = sizes
    return ImageHeader(
        format="PNG", width=width, height=height, orientation=orientation, data=b"".join(kept)
    )


def _webp(data: bytes) -> ImageHeader:
    (length,) = struct.unpack_from("<I", data, 4)
    data = data[: 8 + length]
    size: tuple[int, int] | None = None
    orientation = 1
    for kind, place, length in _chunks(data, 12, "<4sI", 0):
        body = data[place : place + min(length, 1 << 16)]
        if kind == b"ANMF" or (kind == b"VP8X" and body[0] & 2):
            raise _animated()
        if kind == b"EXIF":
            orientation = _orientation(body.removeprefix(b"Exif\0\0"))
        elif size is None:
            size = _webp_size(kind, body)
    if size is None:
        raise damaged("it has no size")
    return ImageHeader(
        format="WebP", width=size[0], height=size[1], orientation=orientation, data=data
    )


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Read the size in a chunk (RFC 9649, sections 2.5 to 2.7); None in one of another kind."""
    match kind:
        case b"VP8X":
            low_width, width, low_height, height = struct.unpack_from("<HBHB", body, 4)
            return 1 + low_width + (width << 16), 1 + low_height + (height << 16)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (packed,) = struct.unpack_from("<I", body, 1)
            return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    return None


def _chunks(data: bytes, place: int, form: str, after: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the contents of each chunk.

    Args:
        data: the file.
        place: place of the first chunk.
        form: form of a chunk's head, with its kind and its length in either order.
        after: bytes after the contents of a chunk; without, chunks have an even length.
    """
    for _ in range(MAX_PARTS):
        if place >= len(data):
            return
        head = struct.unpack_from(form, data, place)
        kind, length = head if isinstance(head[0], bytes) else reversed(head)
        yield kind, place + 8, length
        place += 8 + length + (after or length % 2)
    raise _too_many_parts()


def _orientation(exif: bytes) -> int:
    """Read the orientation in EXIF data, which begin as a TIFF file; 1 if there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, place)
        for number in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place + 2 + 12 * number)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _animated() -> ImageError:
    return ImageError("the image is animated", hint="Send a single frame of it.")


def _too_many_parts() -> ImageError:
    return damaged(f"it has more than {MAX_PARTS} parts")
