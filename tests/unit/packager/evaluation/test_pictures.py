"""Pictures of an evaluation: those that are drawn, and those of a folder, which may be hostile."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from packager.errors import EvaluationError
from packager.evaluation import pictures

RED, BLUE = (200, 30, 30), (30, 30, 200)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png), formats=("PNG",))


def test_drawn_pictures_are_the_same_each_time_and_differ_in_size_and_content() -> None:
    drawn = list(pictures.drawn())
    assert drawn == list(pictures.drawn())
    assert len(drawn) == 12
    for field in ("name", "question", "png"):
        assert len({getattr(picture, field) for picture in drawn}) == 12
    images = [opened(picture.png) for picture in drawn]
    assert {image.mode for image in images} == {"RGB"}
    ratios = {image.width / image.height for image in images}
    assert min(ratios) < 0.3
    assert max(ratios) > 3
    assert all(len(image.getcolors(1 << 20) or [()] * 9) > 1 for image in images)


def folder_of(folder: Path, **images: Image.Image) -> Path:
    """A folder with pictures, in the format of the name's last part."""
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / name.replace("_", "."))
    return folder


def test_pictures_of_a_folder_are_upright_in_rgb_with_their_questions(tmp_path: Path) -> None:
    wide = Image.new("RGB", (60, 20), RED)
    wide.paste(BLUE, (0, 0, 10, 20))
    folder = folder_of(
        tmp_path / "p",
        a_png=Image.new("RGBA", (8, 6), (0, 0, 0, 0)),
        b_webp=Image.new("RGB", (9, 9), BLUE),
        d_png=Image.new("RGB", (4100, 100), RED),
    )
    turned = Image.Exif()
    turned[0x0112] = 6  # its left is above
    wide.save(folder / "c.JPG", "JPEG", exif=turned, quality=95)
    (folder / "b.txt").write_text(" Which colour?\n")
    (folder / "notes.md").write_text("not a picture")
    read = list(pictures.read(folder))
    assert [picture.name for picture in read] == ["a.png", "b.webp", "c.JPG", "d.png"]
    usual = pictures.QUESTION
    assert [picture.question for picture in read] == [usual, "Which colour?", usual, usual]
    clear, _, upright, large = (opened(picture.png) for picture in read)
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert upright.size == (20, 60)
    first = upright.getpixel((10, 2))
    assert isinstance(first, tuple)
    assert first[2] > 150 > first[0]
    assert large.width == pictures.SIDE


def png_of_size(width: int, height: int) -> bytes:
    """A small file that says it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not a picture", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (png_of_size(64, 64), "cannot be decoded"),
        (jpeg()[:600], "cannot be decoded"),
        (png_of_size(6000, 6000), "larger than 25 megapixels"),
        (png_of_size(10_000, 10_000), "larger than 25 megapixels"),
        (png_of_size(100_000, 100_000), "cannot be decoded: Image size"),
        (png_of_size(5100, 100), "more than 50 times as long"),
        (png_of_size(1, 20_000), "more than 50 times as long"),
        (b"GIF89a" + bytes(40), "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be decoded"),
        (b"\xff" * (pictures.MAX_BYTES + 1), "larger than 20 MB"),
    ],
)
def test_bad_picture_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    folder = folder_of(tmp_path / "p", a_png=Image.new("RGB", (8, 8)))
    (folder / "b.png").write_bytes(data)
    with pytest.raises(EvaluationError, match=words) as refused:
        list(pictures.read(folder))
    assert "b.png" in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("count", [0, 1, pictures.MOST + 1])
def test_number_of_pictures_is_bounded(tmp_path: Path, count: int) -> None:
    names = {f"n{number}_png": Image.new("RGB", (2, 2)) for number in range(count)}
    with pytest.raises(EvaluationError, match=rf"has {count} pictures .* from 2 to 64"):
        list(pictures.read(folder_of(tmp_path / "p", **names)))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("  \n"),
        lambda path: path.write_text("?" * (pictures.MAX_QUESTION + 1)),
        lambda path: path.mkdir(),
    ],
)
def test_question_is_a_short_text(tmp_path: Path, write: Callable[[Path], object]) -> None:
    two = {"a_png": Image.new("RGB", (2, 2)), "b_png": Image.new("RGB", (2, 2))}
    folder = folder_of(tmp_path / "p", **two)
    write(folder / "b.txt")
    with pytest.raises(EvaluationError, match=r"b\.txt is not a question"):
        list(pictures.read(folder))


def test_thumbnail_is_small() -> None:
    picture = next(pictures.drawn())
    small = Image.open(io.BytesIO(pictures.thumbnail(picture.png, 100)))
    assert max(small.size) == 100
    assert small.format == "JPEG"
