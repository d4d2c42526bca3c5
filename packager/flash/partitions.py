"""Partition tables of disk images: read with bounds on everything, and enlarged.

Both formats count in sectors of 512 bytes. MBR: four entries in the first sector; an entry may hold
a chain of further tables with a logical partition each. GPT (UEFI Specification 2.10, chapter 5): a
header in sector 1 and a second one in the last sector, each with checksums over itself and its
entries.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from typing import Literal, NoReturn

from packager.errors import FlashError

SECTOR = 512
MAX_LOGICAL = 60
MAX_ENTRIES = 1024
MBR_MAX_SECTORS = (1 << 32) - 1

_MBR_ENTRIES = 446
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition.

    Attributes:
        number: its number, as in the name of its device.
        start: offset of its first byte on the disk.
        size: its length, bytes.
    """

    number: int
    start: int
    size: int

    @property
    def end(self) -> int:
        """Offset of the byte after the last one."""
        return self.start + self.size


@dataclass(frozen=True, kw_only=True)
class Table:
    """A partition table.

    Attributes:
        kind: format of the table.
        partitions: its partitions by their place on the disk.
    """

    kind: Literal["mbr", "gpt"]
    partitions: tuple[Partition, ...]


def read_table(descriptor: int, size: int) -> Table:
    """Read the partition table of a disk.

    Args:
        descriptor: file descriptor of the disk or its image.
        size: size of the disk, bytes.

    Raises:
        FlashError: there is no table, or it is damaged.
    """
    sector = _sector(descriptor, 0)
    if sector[510:] != b"\x55\xaa":
        raise FlashError(
            "the image has no partition table",
            hint="Pass the image of a whole disk, as the board's vendor publishes it.",
        )
    entries = _mbr_entries(sector)
    if any(kind == _PROTECTIVE for kind, _, _ in entries):
        return Table(kind="gpt", partitions=_checked(_gpt_partitions(descriptor, size), size))
    partitions = []
    for number, (kind, start, count) in enumerate(entries, start=1):
        if kind in _EXTENDED:
            partitions += _logical(descriptor, start, count)
        elif kind and count:
            partitions.append(_partition(number, start, count))
    return Table(kind="mbr", partitions=_checked(partitions, size))


def grow_last(descriptor: int, table: Table, size: int) -> Partition:
    """Enlarge the last partition up to the end of a disk, and return it.

    Args:
        descriptor: file descriptor of the disk, which has been enlarged already.
        table: table of the disk as it is on the disk.
        size: new size of the disk, bytes, a multiple of 1 MiB.

    Raises:
        FlashError: the table cannot describe a partition of that size.
    """
    last = table.partitions[-1]
    if table.kind == "gpt":
        return _grow_gpt(descriptor, last, size // SECTOR)
    sectors = (size - last.start) // SECTOR
    if last.number > 4:
        raise FlashError(
            f"partition {last.number} is a logical one, and these are not enlarged",
            hint="Enlarge the image with parted, and flash it without --grow.",
        )
    if last.start // SECTOR + sectors > MBR_MAX_SECTORS:
        raise FlashError(
            "an image with a table in MBR format ends at 2 TiB", hint="Pass a smaller --grow."
        )
    offset = _MBR_ENTRIES + _MBR_ENTRY.size * (last.number - 1)
    entry = _sector(descriptor, 0)[offset : offset + _MBR_ENTRY.size]
    active, first, kind, _, start, _ = _MBR_ENTRY.unpack(entry)
    # The end in cylinders, heads and sectors of a partition that is too large for them.
    changed = _MBR_ENTRY.pack(active, first, kind, b"\xfe\xff\xff", start, sectors)
    os.pwrite(descriptor, changed, offset)
    return _partition(last.number, start, sectors)


def _damaged(problem: str) -> NoReturn:
    raise FlashError(
        f"the image's partition table is damaged: {problem}", hint="Download the image again."
    )


def _sector(descriptor: int, number: int) -> bytes:
    data = os.pread(descriptor, SECTOR, number * SECTOR)
    if len(data) != SECTOR:
        _damaged(f"there is no sector {number}")
    return data


def _partition(number: int, start: int, count: int) -> Partition:
    return Partition(number=number, start=start * SECTOR, size=count * SECTOR)


def _checked(partitions: list[Partition], size: int) -> tuple[Partition, ...]:
    """Order partitions by place; refuse those outside of the disk and those that overlap."""
    ordered = sorted(partitions, key=lambda partition: partition.start)
    end = SECTOR
    for partition in ordered:
        if partition.start < end:
            _damaged(f"partition {partition.number} overlaps what is before it")
        end = partition.end
        if end > size:
            _damaged(f"partition {partition.number} goes beyond the end of the image")
    return tuple(ordered)


def _mbr_entries(sector: bytes) -> list[tuple[int, int, int]]:
    """Return the kind, first sector and number of sectors of the four entries."""
    return [
        (kind, start, count)
        for _, _, kind, _, start, count in _MBR_ENTRY.iter_unpack(sector[_MBR_ENTRIES:510])
    ]


def _logical(descriptor: int, first: int, count: int) -> list[Partition]:
    """Follow the chain of tables in an extended partition."""
    partitions: list[Partition] = []
    seen: set[int] = set()
    following = 0
    while True:
        place = first + following
        if following >= count or place in seen or len(seen) == MAX_LOGICAL:
            _damaged("the chain of logical partitions has a loop, or leaves its partition")
        seen.add(place)
        sector = _sector(descriptor, place)
        if sector[510:] != b"\x55\xaa":
            _damaged("a table of logical partitions is missing")
        (kind, start, sectors), (_, following, more), *_ = _mbr_entries(sector)
        if kind and sectors:
            if start == 0 or place + start + sectors > first + count:
                _damaged("a logical partition leaves the partition that it is in")
            partitions.append(_partition(5 + len(partitions), place + start, sectors))
        if not more:
            return partitions


@dataclass(kw_only=True)
class _Gpt:
    """A GPT header, in sectors, with its entries."""

    fields: list[int | bytes]
    entries: bytearray
    entry_size: int


def _read_gpt(descriptor: int) -> _Gpt:
    sector = _sector(descriptor, 1)
    fields = list(_GPT_HEADER.unpack_from(sector))
    signature, _, length, checksum = fields[:4]
    if signature != b"EFI PART" or not _GPT_HEADER.size <= length <= SECTOR:
        _damaged("its GPT header is missing")
    blank = sector[:16] + bytes(4) + sector[20:length]
    if zlib.crc32(blank) != checksum or length != _GPT_HEADER.size or fields[5] != 1:
        _damaged("its GPT header has a wrong checksum")
    place, count, entry_size, checksum = fields[10:]
    if count > MAX_ENTRIES or entry_size not in (128, 256, 512):
        _damaged(f"it has {count} GPT entries of {entry_size} bytes")
    entries = os.pread(descriptor, count * entry_size, place * SECTOR)
    if place < 2 or len(entries) != count * entry_size or zlib.crc32(entries) != checksum:
        _damaged("its GPT entries have a wrong checksum")
    return _Gpt(fields=fields, entries=bytearray(entries), entry_size=entry_size)


def _gpt_partitions(descriptor: int, size: int) -> list[Partition]:
    gpt = _read_gpt(descriptor)
    partitions = []
    for index in range(0, len(gpt.entries), gpt.entry_size):
        kind, _, first, last, _, _ = _GPT_ENTRY.unpack_from(gpt.entries, index)
        number = index // gpt.entry_size + 1
        if kind == bytes(16):
            continue
        if not 2 <= first <= last < size // SECTOR:
            _damaged(f"partition {number} goes beyond the end of the image")
        partitions.append(_partition(number, first, last - first + 1))
    return partitions


def _grow_gpt(descriptor: int, last: Partition, sectors: int) -> Partition:
    """Enlarge a GPT partition up to the second table, which moves to the new end of the disk."""
    gpt = _read_gpt(descriptor)
    table_sectors = -(-len(gpt.entries) // SECTOR)
    usable = sectors - table_sectors - 2
    offset = (last.number - 1) * gpt.entry_size
    kind, identity, first, _, flags, name = _GPT_ENTRY.unpack_from(gpt.entries, offset)
    _GPT_ENTRY.pack_into(gpt.entries, offset, kind, identity, first, usable, flags, name)
    own, other, places = 5, 6, 10
    gpt.fields[8] = usable
    gpt.fields[13] = zlib.crc32(gpt.entries)
    first_entries = gpt.fields[places]
    assert isinstance(first_entries, int)
    for at, alternate, entries_at in (
        (sectors - 1, 1, sectors - 1 - table_sectors),
        (1, sectors - 1, first_entries),
    ):
        gpt.fields[own], gpt.fields[other], gpt.fields[places] = at, alternate, entries_at
        gpt.fields[3] = 0
        gpt.fields[3] = zlib.crc32(_GPT_HEADER.pack(*gpt.fields))
        os.pwrite(descriptor, gpt.entries, entries_at * SECTOR)
        os.pwrite(descriptor, _GPT_HEADER.pack(*gpt.fields).ljust(SECTOR, b"\0"), at * SECTOR)
    protective = bytearray(_sector(descriptor, 0))
    for offset in range(_MBR_ENTRIES, 510, _MBR_ENTRY.size):
        if protective[offset + 4] == _PROTECTIVE:
            covered = min(sectors - 1, MBR_MAX_SECTORS)
            struct.pack_into("<I", protective, offset + 12, covered)
    os.pwrite(descriptor, protective, 0)
    return _partition(last.number, first, usable - first + 1)
