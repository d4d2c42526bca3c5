"""Partition tables, those that a hostile image may have included."""

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.errors import FlashError
from packager.flash.partitions import SECTOR, grow_last, read_table

SIZE = 64 << 20
SECTORS = SIZE // SECTOR
ENTRY = struct.Struct("<B3sB3sII")
LINUX, EXTENDED, PROTECTIVE = 0x83, 0x05, 0xEE

needs_sfdisk = pytest.mark.requires("sfdisk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


def write_table(disk: int, *entries: tuple[int, int, int], sector: int = 0) -> None:
    """Write an MBR with the kind, first sector and number of sectors of its partitions."""
    table = b"".join(ENTRY.pack(0, b"", kind, b"", start, count) for kind, start, count in entries)
    os.pwrite(disk, bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa", sector * SECTOR)


def sfdisk(disk: int, script: str) -> None:
    path = f"/proc/{os.getpid()}/fd/{disk}"
    subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True)


def places(disk: int) -> list[tuple[int, int, int]]:
    table = read_table(disk, SIZE)
    return [(part.number, part.start // SECTOR, part.size // SECTOR) for part in table.partitions]


def damaged(disk: int, problem: str) -> None:
    with pytest.raises(FlashError, match=problem) as caught:
        read_table(disk, SIZE)
    assert caught.value.hint


@needs_sfdisk
def test_primary_and_logical_partitions(disk: int) -> None:
    sfdisk(
        disk,
        "label: dos\nstart=2048, size=2048, type=c\nstart=8192, size=40960, type=f\n"
        "start=10240, size=2048, type=83\nstart=14336, size=4096, type=83\n",
    )
    assert places(disk) == [(1, 2048, 2048), (5, 10240, 2048), (6, 14336, 4096)]


@needs_sfdisk
def test_gpt_by_place_and_not_by_number(disk: int) -> None:
    sfdisk(disk, "label: gpt\n1: start=40960, size=2048\n2: start=2048, size=2048\n")
    assert places(disk) == [(2, 2048, 2048), (1, 40960, 2048)]
    assert read_table(disk, SIZE).kind == "gpt"


def test_no_table(disk: int) -> None:
    damaged(disk, "no partition table")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file, pytest.raises(FlashError, match="no sector 0"):
        read_table(file.fileno(), 0)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([(LINUX, 2048, SECTORS)], "goes beyond the end"),
        ([(LINUX, 0xFFFFFFFF, 0xFFFFFFFF)], "goes beyond the end"),
        ([(LINUX, 0, 2048)], "overlaps"),
        ([(LINUX, 2048, 2048), (LINUX, 4095, 2048)], "partition 2 overlaps"),
        ([(EXTENDED, 2048, 8)], "table of logical partitions is missing"),
        ([(EXTENDED, 0xFFFFFFF0, 8)], "there is no sector"),
    ],
)
def test_entries_that_cannot_be(
    disk: int, entries: list[tuple[int, int, int]], problem: str
) -> None:
    write_table(disk, *entries)
    damaged(disk, problem)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([(LINUX, 8, 8), (EXTENDED, 0, 64)], "a loop"),
        ([(LINUX, 8, 8), (EXTENDED, 5000, 64)], "leaves its partition"),
        ([(LINUX, 8, 5000)], "leaves the partition that it is in"),
        ([(LINUX, 0, 8)], "leaves the partition that it is in"),
    ],
)
def test_chains_that_cannot_be(
    disk: int, entries: list[tuple[int, int, int]], problem: str
) -> None:
    write_table(disk, (EXTENDED, 2048, 4096))
    write_table(disk, *entries, sector=2048)
    damaged(disk, problem)


def test_chain_without_an_end(disk: int) -> None:
    write_table(disk, (EXTENDED, 2048, 4096))
    for number in range(100):
        following = (EXTENDED, (number + 1) * 16, 16)
        write_table(disk, (LINUX, 8, 8), following, sector=2048 + number * 16)
    damaged(disk, "chain of logical partitions")


@needs_sfdisk
@pytest.mark.parametrize("offset", [512, 520, 528, 540, 584, 592, 596, 1024, 1024 + 40])
def test_changed_byte_of_a_gpt(disk: int, offset: int) -> None:
    sfdisk(disk, "label: gpt\nstart=2048, size=2048\n")
    (byte,) = os.pread(disk, 1, offset)
    os.pwrite(disk, bytes([byte ^ 1]), offset)
    damaged(disk, "GPT")


@needs_sfdisk
def test_random_bytes_never_end_in_another_error(disk: int) -> None:
    sfdisk(
        disk,
        "label: dos\nstart=2048, size=2048\nstart=8192, size=40960, type=f\n"
        "start=10240, size=2048\n",
    )
    head = os.pread(disk, 8192 * SECTOR + SECTOR, 0)
    source = random.Random(1)
    for _ in range(300):
        os.pwrite(disk, head, 0)
        for _ in range(8):
            table = source.choice((0, 0, 8192 * SECTOR))
            os.pwrite(disk, source.randbytes(1), table + 446 + source.randrange(64))
        try:
            partitions = read_table(disk, SIZE).partitions
        except FlashError:
            continue
        assert all(SECTOR <= part.start < part.end <= SIZE for part in partitions)


@needs_sfdisk
def test_logical_partition_is_not_enlarged(disk: int) -> None:
    sfdisk(disk, "label: dos\nstart=8192, size=40960, type=f\nstart=10240, size=2048\n")
    with pytest.raises(FlashError, match="logical"):
        grow_last(disk, read_table(disk, SIZE), 2 * SIZE)


def test_mbr_ends_at_two_tebibytes(disk: int) -> None:
    write_table(disk, (LINUX, 2048, 2048))
    with pytest.raises(FlashError, match="2 TiB"):
        grow_last(disk, read_table(disk, SIZE), 3 << 40)
