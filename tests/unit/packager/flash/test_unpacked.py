"""Compressed images, with everything that a hostile or truncated file may hold."""

import gzip
import io
import lzma
import os
import random
import zipfile
from pathlib import Path

import pytest
import zstandard

from packager.errors import FlashError
from packager.flash.unpacked import copy, unpack

PLAIN = random.Random(1).randbytes(300_001) + bytes(3 << 20) + b"end" + bytes(100_000)


def packed(kind: str, data: bytes = PLAIN) -> bytes:
    if kind == "xz":
        return lzma.compress(data, preset=0)
    if kind == "zst":
        return zstandard.compress(data)
    return zip_of({"folder/os.img": data})


def zip_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def unpack_bytes(folder: Path, data: bytes, max_bytes: int = 1 << 30) -> Path:
    (folder / "packed").write_bytes(data)
    output = folder / "image"
    read = 0

    def advance(size: int) -> None:
        nonlocal read
        read += size

    with (folder / "packed").open("rb") as source, output.open("wb") as file:
        unpack(source, file.fileno(), max_bytes, advance)
    assert read <= len(data)
    return output


KINDS = pytest.mark.parametrize("kind", ["xz", "zst", "zip"])


@KINDS
def test_content_with_holes(kind: str, tmp_path: Path) -> None:
    image = unpack_bytes(tmp_path, packed(kind))
    assert image.read_bytes() == PLAIN
    assert image.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_parts_that_follow_each_other(kind: str, tmp_path: Path) -> None:
    data = packed(kind, PLAIN[:1000]) + packed(kind, PLAIN[1000:])
    assert unpack_bytes(tmp_path, data).read_bytes() == PLAIN


@KINDS
@pytest.mark.parametrize("length", [20, 1000, -1000, -5])
def test_truncated(kind: str, length: int, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="damaged"):
        unpack_bytes(tmp_path, packed(kind)[:length])


@KINDS
def test_changed_byte(kind: str, tmp_path: Path) -> None:
    data = bytearray(packed(kind))
    data[5000] ^= 1
    try:
        image = unpack_bytes(tmp_path, bytes(data))
    except FlashError as error:
        assert "damaged" in str(error)
    else:  # zstd without a checksum
        assert kind == "zst" and image.stat().st_size == len(PLAIN)


@KINDS
def test_larger_than_allowed(kind: str, tmp_path: Path) -> None:
    bomb = packed(kind, bytes(64 << 20))
    with pytest.raises(FlashError, match=r"larger than 0\.0 GB"):
        unpack_bytes(tmp_path, bomb, 1 << 20)
    assert (tmp_path / "image").stat().st_blocks == 0


@pytest.mark.parametrize(
    "members", [{}, {"a.txt": b"1"}, {"a.img": b"1", "b.img": b"2"}], ids=["none", "other", "two"]
)
def test_zip_without_one_image(members: dict[str, bytes], tmp_path: Path) -> None:
    data = zip_of(members)
    with pytest.raises(FlashError):
        unpack_bytes(tmp_path, data)


def test_gzip_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="compressed with gzip"):
        unpack_bytes(tmp_path, gzip.compress(b"x"))


def test_copy_keeps_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for place in (0, 5 << 20, 40 << 20):
            os.pwrite(file.fileno(), b"data", place)
        file.truncate(64 << 20)
    with source.open("rb") as file, (tmp_path / "copy").open("wb") as output:
        copy(file.fileno(), output.fileno(), lambda _size: None)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20
