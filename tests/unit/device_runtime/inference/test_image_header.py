"""Headers of image files, and what of a file reaches the decoder."""

import struct
import zlib

import pytest
from PIL import Image

from device_runtime.inference.engine import ImageError
from device_runtime.inference.image_header import MAX_PARTS, MAX_SCANS, read_header
from tests.support.hostile_images import (
    after_start,
    before_end,
    chunk,
    encoded,
    exif,
    jpeg,
    picture,
    png,
    segment,
    webp,
)

SECRET = b"a comment, a profile, a place on the map"


@pytest.mark.parametrize("size", [(48, 32), (1, 1), (1000, 20), (3, 150)])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": exif(1)}),
    ],
)
def test_size_is_read_without_decoding(
    form: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    header = read_header(encoded(Image.new("RGB", size, "red"), form, **options))
    assert (header.width, header.height) == size
    assert header.format.upper() == form
    assert header.progressive == bool(options.get("progressive"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_every_format(order: str) -> None:
    data = exif(7, order)
    for file in (
        after_start(jpeg(), segment(0xE1, b"Exif\0\0" + data)),
        before_end(png(), chunk(b"eXIf", data)),
        webp(exif=data),
        webp(exif=b"Exif\0\0" + data),
    ):
        assert read_header(file).orientation == 7


def test_metadata_do_not_reach_the_decoder() -> None:
    segments = [segment(code, SECRET) for code in (*range(0xE0, 0xEE), 0xEF, 0xFE)]
    chunks = [chunk(kind, SECRET) for kind in (b"tEXt", b"iCCP", b"zTXt", b"gAMA", b"prVt")]
    for file, plain in (
        (after_start(jpeg(), *segments), jpeg()),
        (before_end(png(), *chunks), png()),
    ):
        assert SECRET in file
        data = read_header(file).data
        assert SECRET not in data
        assert len(data) <= len(plain)


def test_inverted_colours_of_adobe_are_kept() -> None:
    file = encoded(picture("CMYK"), "JPEG")
    assert b"Adobe" in read_header(file).data


def test_file_of_too_many_parts_is_refused() -> None:
    few = before_end(png(), chunk(b"tEXt", b"") * (MAX_PARTS - 10))
    assert read_header(few).width == 48
    for file in (
        before_end(png(), chunk(b"tEXt", b"") * MAX_PARTS),
        after_start(jpeg(), segment(0xE1, b"") * MAX_PARTS),
    ):
        with pytest.raises(ImageError, match=f"more than {MAX_PARTS} parts"):
            read_header(file)


def test_scans_are_counted_where_the_decoder_would_find_them() -> None:
    file = jpeg(progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    assert read_header(file[:-2] + scan * 50 + b"\xff\xd9").progressive
    # An end within a comment is not the end of the image.
    hidden = segment(0xFE, b"\xff\xd9") + scan * MAX_SCANS
    with pytest.raises(ImageError, match="scans; at most"):
        read_header(file[:-2] + hidden + b"\xff\xd9")
    # What comes after the end does not count.
    assert read_header(file + scan * MAX_SCANS).progressive


def test_second_size_is_refused() -> None:
    head = struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)
    with pytest.raises(ImageError, match="several sizes"):
        read_header(before_end(png(), chunk(b"IHDR", head)))


def test_picture_that_pretends_to_be_still_is_animated() -> None:
    control = struct.pack(">II", 2, 0)
    file = before_end(png(), chunk(b"acTL", control), chunk(b"fdAT", zlib.compress(b"\0")))
    with pytest.raises(ImageError, match="animated"):
        read_header(file)
