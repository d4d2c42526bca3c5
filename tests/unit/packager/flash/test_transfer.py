"""The difference between two states of a folder, written into a real file system."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.errors import FlashError, ResourceError
from packager.flash.ext4 import FileSystem, quoted
from packager.flash.scratch import Scratch
from packager.flash.transfer import Changes, changes, snapshot
from tests.support import images
from tests.support.images import ROOT_START, make_image, nodes

STATE = "var/lib/edgepack"


class Rig:
    """An image with some files of edgepack, and the scratch folder that was filled from it."""

    def __init__(self, work: Path) -> None:
        tree = images.device_tree(work / "tree")
        state = tree / STATE
        for path in ("old/model", "old/gone", "file", "keep/twice"):
            (state / path).parent.mkdir(parents=True, exist_ok=True)
            (state / path).write_text(path * 1000)
        (state / "keep/second").hardlink_to(state / "keep/twice")
        (state / "link").symlink_to("old")
        self.image = make_image(work / "a.img", "mbr", tree)
        self.descriptor = os.open(self.image, os.O_RDWR)
        self.files = FileSystem(self.descriptor, ROOT_START, self.image.stat().st_size - ROOT_START)
        (work / "work").mkdir()
        self.scratch = Scratch(self.files, work / "work", 1 << 30)
        self.scratch.prepare()
        self.scratch.copy(lambda _size: None)
        self.state = self.scratch.root / STATE
        self.before = snapshot(self.scratch.root)
        self.extracted = work / "rdump"

    def difference(self) -> Changes:
        return changes(self.scratch, self.before, snapshot(self.scratch.root))

    def transfer(self) -> Changes:
        """Write the changes; the image's files are then those of the folder."""
        difference = self.difference()
        difference.write(self.files, lambda _size: None)
        difference.compare(self.files, lambda _size: None)
        images.check(self.image)
        extracted = images.extract(self.image, self.extracted)
        assert nodes(extracted / STATE) == nodes(self.state)
        return difference


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    os.close(rig.descriptor)


pytestmark = pytest.mark.requires("root", "debugfs", "mkfs.ext4", "mkfs.vfat", "sfdisk")


def test_nothing(rig: Rig) -> None:
    assert rig.transfer().content_bytes == 0


def test_new_names_of_old_files(rig: Rig) -> None:
    """As a release that shares files with one that is removed."""
    (rig.state / "new").mkdir()
    (rig.state / "new/model").hardlink_to(rig.state / "old/model")
    (rig.state / "new/again").hardlink_to(rig.state / "old/model")
    (rig.state / "new/third").hardlink_to(rig.state / "keep/twice")
    (rig.state / "old/model").unlink()
    (rig.state / "old/gone").unlink()
    (rig.state / "old").rmdir()
    (rig.state / "file").rename(rig.state / "new/file")
    difference = rig.transfer()
    assert difference.files == ()
    assert "Links: 3 " in images.debugfs(rig.image, f"stat /{STATE}/new/third")
    assert "Links: 2 " in images.debugfs(rig.image, f"stat /{STATE}/new/model")


def test_each_kind_in_place_of_each_other(rig: Rig) -> None:
    (rig.state / "file").unlink()
    (rig.state / "file").mkdir()
    (rig.state / "file/inside").write_text("inside")
    (rig.state / "link").unlink()
    (rig.state / "link").write_text("no link")
    (rig.state / "keep/second").unlink()
    (rig.state / "keep/second").symlink_to("twice")
    (rig.state / "old/model").unlink()
    (rig.state / "old/gone").unlink()
    (rig.state / "old").rmdir()
    (rig.state / "old").symlink_to("/" + "far/" * 50)
    rig.transfer()


def test_changed_content_link_and_mode(rig: Rig) -> None:
    (rig.state / "old/model").write_text("changed in place")
    (rig.state / "link").unlink()
    (rig.state / "link").symlink_to("keep")
    (rig.state / "keep").chmod(0o700)
    (rig.state / "private").touch(0o600)
    rig.transfer()


def test_new_files_with_several_names(rig: Rig) -> None:
    (rig.state / "one").write_text("content")
    (rig.state / "two").hardlink_to(rig.state / "one")
    difference = rig.transfer()
    assert difference.content_bytes == len("content")
    assert "Links: 2 " in images.debugfs(rig.image, f"stat /{STATE}/two")


def test_holes_and_empty_files(rig: Rig) -> None:
    with (rig.state / "sparse").open("wb") as file:
        file.write(b"x")
        file.truncate(100_000_000)
    (rig.state / "empty").touch()
    rig.transfer()


def test_too_many_files_for_the_file_system(rig: Rig) -> None:
    for number in range(10):
        (rig.state / f"{number}").touch()
    difference = rig.difference()
    difference.check_space(rig.files, 1 << 20, "Grow it.")
    with pytest.raises(ResourceError, match="MiB free; the release needs"):
        difference.check_space(rig.files, 1 << 30, "Grow it.")


@pytest.mark.parametrize("name", ["a\nrm /etc/passwd", "a\tb", "\udcff", "x" * 3000])
def test_names_that_are_not_written(name: str) -> None:
    with pytest.raises(FlashError, match="cannot be written into an image"):
        quoted(name)


def test_other_content_is_noticed(rig: Rig) -> None:
    (rig.state / "file").write_text("intended")
    difference = rig.difference()
    difference.write(rig.files, lambda _size: None)
    (rig.state / "file").write_text("INTENDED")
    with pytest.raises(FlashError, match="/var/lib/edgepack/file differs"):
        difference.compare(rig.files, lambda _size: None)
