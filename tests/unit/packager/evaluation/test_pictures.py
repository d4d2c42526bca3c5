"""Pictures of an evaluation: those that are drawn, and those of a folder, which may be hostile."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from device_runtime.inference import image_file
from packager.errors import EvaluationError
from packager.evaluation import pictures

RED, BLUE = (200, 30, 30), (30, 30, 200)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_drawn_pictures_are_the_same_each_time_and_differ_in_size_and_content() -> None:
    drawn = list(pictures.drawn())
    assert drawn == list(pictures.drawn())
    assert len(drawn) == 12
    for field in ("name", "question", "data"):
        assert len({getattr(picture, field) for picture in drawn}) == 12
    images = [opened(picture.data) for picture in drawn]
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


def test_pictures_of_a_folder_come_with_their_questions(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "p", a_png=Image.new("RGB", (8, 6), RED), b_webp=Image.new("RGB", (9, 9), BLUE)
    )
    Image.new("L", (30, 20)).save(folder / "c.JPG", "JPEG")
    (folder / "b.txt").write_text(" Which colour?\n")
    (folder / "notes.md").write_text("not a picture")
    read = list(pictures.read(folder))
    assert [picture.name for picture in read] == ["a.png", "b.webp", "c.JPG"]
    usual = pictures.QUESTION
    assert [picture.question for picture in read] == [usual, "Which colour?", usual]
    assert [picture.data for picture in read] == [
        (folder / picture.name).read_bytes() for picture in read
    ]


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
        (b"not a picture", ""),
        (b"", ""),
        (png_of_size(64, 64), "damaged"),
        (jpeg()[:600], "damaged"),
        (png_of_size(10_000, 10_000), "10000 x 10000 pixels"),
        (png_of_size(5100, 100), "more than 50 times as long"),
        (b"GIF89a" + bytes(40), ""),
        (b"\xff" * (image_file.MAX_BYTES + 1), "bytes; at most"),
    ],
)
def test_bad_picture_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    folder = folder_of(tmp_path / "p", a_png=Image.new("RGB", (8, 8)))
    (folder / "b.png").write_bytes(data)
    with pytest.raises(EvaluationError, match=rf"b\.png cannot be used: .*{words}") as refused:
        list(pictures.read(folder))
    assert "remove it from the folder" in refused.value.hint


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[2Ja.png", os.fsdecode(b"\xff.png")])
def test_name_must_fit_into_a_manifest(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "p", c_png=Image.new("RGB", (8, 8)))
    shutil.copyfile(folder / "c.png", folder / name)
    with pytest.raises(EvaluationError, match="has a file with the name '") as refused:
        list(pictures.read(folder))
    assert str(refused.value).isprintable()


def test_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "p", a_png=Image.new("RGB", (8, 8)))
    (folder / "b.png").mkdir()
    with pytest.raises(EvaluationError, match=r"b\.png cannot be read: Is a directory"):
        list(pictures.read(folder))


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


def test_thumbnail_is_small_and_upright() -> None:
    wide = Image.new("RGB", (600, 200), RED)
    turned = Image.Exif()
    turned[0x0112] = 6  # its left is above
    buffer = io.BytesIO()
    wide.save(buffer, "JPEG", exif=turned)
    small = opened(pictures.thumbnail(buffer.getvalue(), 90))
    assert (small.size, small.format) == ((30, 90), "JPEG")
