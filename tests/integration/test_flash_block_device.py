"""Flash a block device: a loop device takes the place of the card."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager import console
from packager.errors import FlashError
from packager.flash import block_device, flash
from packager.flash.request import FlashRequest
from tests.support import images
from tests.support.bundles import draft
from tests.support.images import ROOT_START, digest, make_image, nodes

pytestmark = pytest.mark.requires(
    "root", "loop", "losetup", "debugfs", "mkfs.ext4", "mkfs.vfat", "sfdisk"
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return images.device_tree(tmp_path / "tree")


@pytest.fixture
def image(tmp_path: Path, tree: Path) -> Path:
    return make_image(tmp_path / "card.img", "gpt", tree)


@pytest.fixture
def card(image: Path, own_cache: Path) -> Iterator[str]:
    device = images.run("losetup", "--find", "--show", image).strip()
    try:
        yield device
    finally:
        images.run("losetup", "-d", device)


def on_card(device: str, image: Path) -> str:
    """The digest of the card's content, from behind the loop device."""
    images.run("blockdev", "--flushbufs", device)
    return digest(image)


def test_tree_is_that_of_a_mounted_root(
    card: str, image: Path, tree: Path, bundle: Path, tmp_path: Path
) -> None:
    front = images.bytes_at(image, 0, ROOT_START)
    newer = draft().replaced(version="1.0.1", sequence=2).write(tmp_path / "newer.epk")
    for path in (bundle, newer):
        result = flash(FlashRequest(bundle=path, target=card, yes=True))
        flash(FlashRequest(bundle=path, target=str(tree)))
    assert (result.target, result.moved["model"]) == (card, 0)
    on_card(card, image)
    images.check(image)
    assert images.bytes_at(image, 0, ROOT_START) == front
    assert nodes(images.extract(image, tmp_path / "rdump")) == nodes(tree)


def test_dry_run_writes_nothing(card: str, image: Path, bundle: Path) -> None:
    before = on_card(card, image)
    assert flash(FlashRequest(bundle=bundle, target=card, dry_run=True)).dry_run
    assert on_card(card, image) == before


@pytest.mark.parametrize("answer", [None, "", "y", "sda"])
def test_question_without_the_right_answer(
    answer: str | None, card: str, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = on_card(card, image)
    monkeypatch.setattr(console, "ask", lambda _question: answer)
    with pytest.raises(FlashError) as caught:
        flash(FlashRequest(bundle=bundle, target=card))
    assert "--yes" in caught.value.hint
    assert on_card(card, image) == before


def test_typed_name(card: str, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []

    def answer(question: str) -> str:
        questions.append(question)
        return Path(card).name

    monkeypatch.setattr(console, "ask", answer)
    flash(FlashRequest(bundle=bundle, target=card))
    on_card(card, image)
    images.check(image)
    assert questions == [
        f"This changes the disk {card} of 0.3 GB. Type {Path(card).name} to go on:"
    ]


def test_mounted(card: str, image: Path, bundle: Path, tmp_path: Path) -> None:
    point = tmp_path / "mounted"
    point.mkdir()
    images.run("mount", "-o", f"loop,ro,offset={ROOT_START}", card, point)
    try:
        with pytest.raises(FlashError, match="in use"):
            flash(FlashRequest(bundle=bundle, target=card, yes=True))
    finally:
        images.run("umount", point)


def test_file_system_without_a_table_that_is_mounted(
    tmp_path: Path, bundle: Path, own_cache: Path
) -> None:
    plain = tmp_path / "plain.img"
    plain.touch()
    images.run("mkfs.ext4", "-q", plain, "16M")
    device = images.run("losetup", "--find", "--show", plain).strip()
    point = tmp_path / "mounted"
    point.mkdir()
    try:
        with pytest.raises(FlashError, match="no partition table"):
            flash(FlashRequest(bundle=bundle, target=device, yes=True))
        images.run("mount", device, point)
        with pytest.raises(FlashError, match=f"mounted at {point}"):
            flash(FlashRequest(bundle=bundle, target=device, yes=True))
        images.run("umount", point)
    finally:
        images.run("losetup", "-d", device)


def test_larger_than_allowed(card: str, bundle: Path) -> None:
    with pytest.raises(FlashError, match=r"more than 0\.1 GB") as caught:
        flash(FlashRequest(bundle=bundle, target=card, yes=True, max_size=100_000_000))
    assert "--max-size" in caught.value.hint


def test_this_machines_own_disk(bundle: Path) -> None:
    source = images.run("findmnt", "-n", "-o", "SOURCE", "/").strip()
    if not Path(source).is_block_device():
        pytest.skip("the root of this machine is not on a block device")
    with pytest.raises(FlashError, match=r"disk of this machine|is a partition"):
        flash(FlashRequest(bundle=bundle, target=source, yes=True))


def test_grow_is_for_images(card: str, bundle: Path) -> None:
    with pytest.raises(FlashError, match="--grow is not for a block device"):
        flash(FlashRequest(bundle=bundle, target=card, yes=True, grow=1 << 30))


def test_interrupt_while_it_is_written(
    card: str, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = on_card(card, image)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(block_device, "_compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        flash(FlashRequest(bundle=bundle, target=card, yes=True))
    assert on_card(card, image) == before


def test_disk_that_another_program_has(card: str, bundle: Path) -> None:
    descriptor = os.open(card, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(FlashError, match="cannot be opened") as caught:
            flash(FlashRequest(bundle=bundle, target=card, yes=True))
    finally:
        os.close(descriptor)
    assert "Unmount" in caught.value.hint
