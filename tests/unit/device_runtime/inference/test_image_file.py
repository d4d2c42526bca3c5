"""Image files from anyone: decoded, or refused with a reason, within bounds."""

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from device_runtime import memory
from device_runtime.errors import error_class
from device_runtime.inference import image_file
from device_runtime.inference.engine import ImageError, NoMemoryNowError
from device_runtime.inference.image_file import AREA, to_png
from tests.support.fakes import ROOT
from tests.support.hostile_images import encoded, hostile_images, jpeg, picture, png

Pixels = npt.NDArray[np.uint8]

MOST_GROWTH = 400 << 20
"""Memory that decoding may take, bytes; a WebP of 16 megapixels takes 300 MB."""

MEASURE = """
import re
from pathlib import Path
from device_runtime.inference.engine import ImageError
from device_runtime.inference.image_file import to_png
from tests.support.hostile_images import hostile_images

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

files = [image.data for image in hostile_images()]
Path("/proc/self/clear_refs").write_text("5")
before = peak()
for data in files:
    try:
        to_png(data)
    except ImageError:
        pass
print(peak() - before)
"""


def pixels(data: bytes) -> Pixels:
    """Decode what the engine gets."""
    with Image.open(io.BytesIO(to_png(data)), formats=["PNG"]) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def array(image: Image.Image) -> Pixels:
    return np.asarray(image)


def test_hostile_files_are_decoded_or_refused_with_a_reason() -> None:
    files = list(hostile_images())
    assert len({file.name for file in files}) == len(files) >= 300
    wrong = []
    for file in files:
        try:
            height, width, _ = pixels(file.data).shape
            outcome: object = (width, height)
        except ImageError as error:
            assert str(error).startswith("the image "), file.name
            outcome = None
        if "noise" not in file.name and outcome != file.size:
            wrong.append((file.name, outcome, file.size))
    assert wrong == []


def test_memory_for_hostile_files_is_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) < MOST_GROWTH


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_pixels_are_those_of_the_file(mode: str) -> None:
    image = picture(mode)
    if mode != "CMYK":
        assert np.array_equal(pixels(encoded(image, "PNG")), array(image.convert("RGB")))
    if mode not in "1P":
        data = encoded(image, "JPEG")
        assert np.array_equal(pixels(data), array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_webp_without_loss_keeps_its_pixels() -> None:
    data = encoded(picture(), "WEBP", lossless=True)
    assert np.array_equal(pixels(data), array(picture()))


def test_transparency_is_over_white() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        colour = pixels(encoded(half, form, **options))[0, 0]
        assert colour.tolist() == pytest.approx([255, 127, 127], abs=1)
    key = encoded(Image.new("L", (4, 4), 9), "PNG", transparency=9)
    assert pixels(key)[0, 0].tolist() == [255] * 3


def test_16_bits_of_grey_keep_their_high_byte() -> None:
    image = Image.new("I;16", (4, 4), 0xABCD)
    assert pixels(encoded(image, "PNG"))[0, 0].tolist() == [0xAB] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_upright_as_pillow_turns_it(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(data), array(expected))


@pytest.mark.parametrize(("form", "options"), [("PNG", {"compress_level": 1}), ("JPEG", {})])
def test_large_image_is_made_smaller(form: str, options: dict[str, Any]) -> None:
    # Red and blue halves, the second with a gap that strips must not move.
    large = Image.new("RGB", (6_100, 4_100), "red")
    large.paste("blue", (3_050, 0, 6_100, 4_100))
    small = pixels(encoded(large, form, **options))
    height, width, _ = small.shape
    assert height * width == pytest.approx(AREA, rel=0.01)
    assert width / height == pytest.approx(6_100 / 4_100, rel=0.001)
    for row in (0, height // 3, height - 1):
        assert small[row, 10].tolist() == pytest.approx([255, 0, 0], abs=3)
        assert small[row, -10].tolist() == pytest.approx([0, 0, 255], abs=3)


def test_image_of_the_largest_area_stays_as_it_is() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), np.uint8))
    assert np.array_equal(pixels(encoded(image, "PNG", compress_level=0)), array(image))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: b"hello", "is not a JPEG, PNG or WebP file"),
        (lambda: bytes(17 << 20), "has 17825792 bytes; at most 16777216"),
        (lambda: png()[:-60], "is damaged"),
        (lambda: jpeg()[:-60], "is damaged"),
        (lambda: encoded(Image.new("L", (1, 100_000)), "PNG"), "1 x 100000 pixels: one side"),
        (lambda: encoded(Image.new("1", (8_000, 6_000)), "PNG"), "8000 x 6000 pixels; at most"),
        (lambda: encoded(picture(), "GIF"), "is not a JPEG, PNG or WebP file"),
        (
            lambda: encoded(picture(), "PNG", save_all=True, append_images=[picture("L")]),
            "is animated",
        ),
    ],
)
def test_refusal_says_why(data: Callable[[], bytes], words: str) -> None:
    with pytest.raises(ImageError, match=words) as refusal:
        to_png(data())
    assert refusal.value.hint
    assert error_class(refusal.value.wire_name) is ImageError


def test_image_waits_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 64 << 20)
    with pytest.raises(NoMemoryNowError, match="too little free memory for this image"):
        to_png(png())


def test_memory_that_ends_during_decoding_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image_file, "_shrunk", fail)
    with pytest.raises(NoMemoryNowError):
        to_png(png())
