"""Block devices: which are refused, and writing them so that it can be undone."""

import errno
import os
import random
from pathlib import Path

import pytest

from packager.errors import FlashError
from packager.flash import block_device
from packager.flash.block_device import Machine, changed, write

DISK, PART, MAPPED = os.makedev(8, 16), os.makedev(8, 17), os.makedev(253, 0)


class FakeMachine(Machine):
    """The disk sdb with a partition, in folders like the kernel's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "sys", folder / "proc")
        self.disk = self.device("block/sdb", "8:16")
        self.part = self.device("block/sdb/sdb1", "8:17")
        (self.part / "partition").write_text("1\n")
        (self.proc / "self").mkdir(parents=True)
        self.mounted("254:0", "/", "/dev/vda")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")

    def device(self, path: str, number: str) -> Path:
        device = self.sys / "devices" / path
        (device / "holders").mkdir(parents=True)
        (device / "dev").write_text(f"{number}\n")
        (device / "ro").write_text("0\n")
        numbers = self.sys / "dev/block"
        numbers.mkdir(parents=True, exist_ok=True)
        (numbers / number).symlink_to(device)
        return device

    def mounted(self, number: str, point: str, source: str = "none") -> None:
        with (self.proc / "self/mountinfo").open("a") as file:
            file.write(f"27 1 {number} / {point} rw - ext4 {source} rw\n")


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def refused(machine: Machine, message: str, device: int = DISK) -> None:
    with pytest.raises(FlashError, match=message) as caught:
        machine.check("/dev/sdb", device)
    assert caught.value.hint


def test_disk_that_nobody_uses(machine: FakeMachine) -> None:
    machine.check("/dev/sdb", DISK)


def test_partition(machine: FakeMachine) -> None:
    refused(machine, "is a partition", PART)


def test_read_only(machine: FakeMachine) -> None:
    (machine.disk / "ro").write_text("1\n")
    refused(machine, "read-only")


@pytest.mark.parametrize("number", ["8:16", "8:17"])
def test_mounted(machine: FakeMachine, number: str) -> None:
    machine.mounted(number, "/media/card")
    refused(machine, "mounted at /media/card")


@pytest.mark.parametrize("point", ["/", "/boot", "/boot/firmware", "/home"])
def test_own_disk(machine: FakeMachine, point: str) -> None:
    machine.mounted("8:17", "/media/card")
    machine.mounted("8:17", point)
    refused(machine, f"the disk of this machine: {point} is on it")


def test_own_disk_below_lvm(machine: FakeMachine) -> None:
    mapped = machine.device("virtual/block/dm-0", "253:0")
    (machine.part / "holders/dm-0").symlink_to(mapped)
    machine.mounted("253:0", "/")
    refused(machine, "the disk of this machine")


def test_lvm_or_luks_that_is_not_mounted(machine: FakeMachine) -> None:
    (machine.part / "holders/dm-0").symlink_to(machine.device("virtual/block/dm-0", "253:0"))
    refused(machine, "LVM, LUKS or RAID")


def test_swap_and_btrfs(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both name their device by its path alone."""
    numbers = {"/dev/sdb1": [PART]}
    monkeypatch.setattr(block_device, "_numbers", lambda path: numbers.get(path, []))
    with (machine.proc / "swaps").open("a") as file:
        file.write("/dev/sdb1 partition 1000 0 -2\n")
    refused(machine, "swap")
    machine.mounted("0:40", "/media/card", "/dev/sdb1")
    refused(machine, "mounted at /media/card")


def test_loop_device_on_it(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_device, "_numbers", lambda path: [DISK] if path == "/dev/sdb" else [])
    backing = machine.sys / "block/loop3/loop/backing_file"
    backing.parent.mkdir(parents=True)
    backing.write_text("/dev/sdb\n")
    refused(machine, "loop device")


START, SIZE = 1 << 20, 8 << 20


class Card:
    """A device as a plain file, and what will be written to a partition of it."""

    def __init__(self, folder: Path) -> None:
        source = random.Random(1)
        self.before = source.randbytes(START + SIZE + 5000)
        (folder / "device").write_bytes(self.before)
        self.device = os.open(folder / "device", os.O_RDWR)
        self.old, self.new, self.undo = (
            os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("old", "new", "undo")
        )
        for file in (self.old, self.new):
            os.ftruncate(file, SIZE)
            os.pwrite(file, self.before[START : START + 8192], 0)
        os.pwrite(self.new, b"changed", 4096)
        self.data = source.randbytes(3 << 20)
        os.pwrite(self.new, self.data, 2 << 20)
        self.ranges = changed(self.old, self.new, SIZE)

    @property
    def content(self) -> bytes:
        return os.pread(self.device, 1 << 30, 0)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def test_only_what_changed_is_written(card: Card) -> None:
    assert card.ranges == ([(2 << 20, 5 << 20)], [(4096, 8192)])
    sizes: list[int] = []
    write(card.device, START, card.new, card.ranges, card.undo, sizes.append)
    assert sum(sizes) == 2 * ((3 << 20) + 4096)
    after = bytearray(card.before)
    after[START + 4096 : START + 4103] = b"changed"
    after[START + (2 << 20) : START + (5 << 20)] = card.data
    assert card.content == after


@pytest.mark.parametrize("moment", range(8))
def test_interrupt_restores_every_byte(card: Card, moment: int) -> None:
    calls = 0

    def interrupt(_size: int) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(card.device, START, card.new, card.ranges, card.undo, interrupt)
    assert card.content == card.before


def test_card_that_forgets(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        block_device, "_forget", lambda device: os.pwrite(device, bytes(4), START + (4 << 20))
    )
    with pytest.raises(FlashError, match="returns other data"):
        write(card.device, START, card.new, card.ranges, card.undo, lambda _size: None)
    assert card.content == card.before


@pytest.mark.parametrize("restorable", [True, False])
def test_card_that_fails(restorable: bool, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        if not restorable:
            monkeypatch.setattr(block_device, "_copy", fail)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(block_device, "_compare", fail)
    message = "has its old contents again" if restorable else "cannot be restored"
    with pytest.raises(FlashError, match=message):
        write(card.device, START, card.new, card.ranges, card.undo, lambda _size: None)
    assert (card.content == card.before) == restorable
