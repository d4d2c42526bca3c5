"""Disk images that are damaged or made to do harm: refused, and they stay as they are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.errors import InstallError
from packager.errors import FlashError, PackagerError
from packager.flash import flash
from packager.flash.request import FlashRequest
from packager.flash.scratch import Scratch
from tests.support import images
from tests.support.bundles import draft
from tests.support.images import MIB, ROOT_START, TABLES, debugfs, digest, make_image

pytestmark = pytest.mark.requires("debugfs", "mkfs.ext4", "mkfs.vfat", "sfdisk")

SUPERBLOCK = ROOT_START + 1024


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "cards").mkdir()
    return make_image(tmp_path / "cards/a.img", "mbr", images.device_tree(tmp_path / "tree"))


def write(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), data, offset)


def set_field(image: Path, offset: int, value: int, size: int = 4) -> None:
    """Change a field of the superblock."""
    write(image, SUPERBLOCK + offset, value.to_bytes(size, "little"))


def refused(image: Path, bundle: Path, message: str) -> None:
    before = digest(image)
    with pytest.raises((PackagerError, InstallError), match=message) as caught:
        flash(FlashRequest(bundle=bundle, target=str(image)))
    assert isinstance(caught.value, PackagerError | InstallError)
    assert caught.value.hint
    assert digest(image) == before
    assert [path.name for path in image.parent.iterdir()] == [image.name]


def features(image: Path) -> int:
    return int.from_bytes(images.bytes_at(image, SUPERBLOCK + 0x60, 4), "little")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no ext4": (lambda image: set_field(image, 0x38, 0, 2), "found: none"),
    "giant": (lambda image: set_field(image, 0x4, 0xFFFFFFFF), "found: none"),
    "giant blocks": (lambda image: set_field(image, 0x18, 0xFFFFFFFF), "found: none"),
    "no inodes": (lambda image: set_field(image, 0x28, 0), "found: none"),
    "journal": (
        lambda image: set_field(image, 0x60, 0x4 | features(image)),
        "journal is not empty|found: none",
    ),
    "descriptors": (lambda image: write(image, ROOT_START + 4096, bytes(4096)), "found: none"),
    "garbage": (
        lambda image: write(image, ROOT_START + 8192, os.urandom(32 << 20)),
        "damaged|found: none",
    ),
    "free counts": (lambda image: debugfs(image, "ssv free_blocks_count 1"), "damaged: Free"),
    "bitmap": (lambda image: debugfs(image, "freeb 10 200"), "damaged"),
    "lost inode": (lambda image: debugfs(image, "unlink /usr/bin/env"), "damaged"),
    "shared blocks": (
        lambda image: debugfs(image, "copy_inode /usr/bin/env /usr/lib/os-release"),
        "damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_system(damage: str, image: Path, bundle: Path) -> None:
    change, message = DAMAGES[damage]
    change(image)
    refused(image, bundle, message)


def test_system_that_is_not_one(image: Path, bundle: Path) -> None:
    debugfs(image, "rm /etc/os-release", "rm /usr/lib/os-release")
    refused(image, bundle, "found: none")


def test_features_that_e2fsprogs_does_not_know(image: Path, bundle: Path) -> None:
    """The image is newer than this machine."""
    tree = image.parent.parent / "tree"
    place = ("-E", f"offset={ROOT_START}", "-O", "^metadata_csum")
    images.run("mkfs.ext4", "-q", "-F", *place, "-d", tree, image, "100M")
    set_field(image, 0x60, 0x800000 | features(image))
    refused(image, bundle, "features that this machine's e2fsprogs does not know")


def test_two_systems(image: Path, bundle: Path) -> None:
    """Vendors' images for two systems in turn: nobody knows which one is meant."""
    os.truncate(image, 512 * MIB)
    size = f"size={180 * MIB // 512}, type=83\n"
    second = f"start={256 * MIB // 512}, {size}"
    first = TABLES["mbr"].replace("type=83\n", size)
    images.run("sfdisk", "-q", image, script=first + second)
    tree = image.parent.parent / "tree"
    for start in (ROOT_START, 256 * MIB):
        place = f"offset={start}"
        images.run("mkfs.ext4", "-q", "-F", "-E", place, "-d", tree, image, f"{180 << 10}k")
    refused(image, bundle, "found: 2, 3")


@pytest.mark.parametrize(
    "link", ["os-release", "../etc/os-release", "a" * 300, "/" + "../" * 900 + "etc/os-release"]
)
def test_os_release_in_a_loop(link: str, image: Path, bundle: Path) -> None:
    debugfs(
        image, "rm /usr/lib/os-release", "rm /etc/os-release", f"symlink /etc/os-release {link}"
    )
    refused(image, bundle, "found: none")


@pytest.mark.parametrize("place", ["var/lib/edgepack", "etc/edgepack", "usr/local/bin"])
def test_loop_where_the_installation_goes(place: str, image: Path, bundle: Path) -> None:
    name = place.rpartition("/")[2]
    debugfs(image, "rm /etc/edgepack/update.toml", "rmdir /etc/edgepack", "rmdir /usr/local/bin")
    debugfs(image, f"symlink /{place} {name}")
    refused(image, bundle, "loop")


@pytest.mark.parametrize("target", ["/", "../../..", "../../../../../../../.."])
def test_state_that_is_the_whole_image(
    target: str, image: Path, bundle: Path, tmp_path: Path
) -> None:
    """All of the image is copied to the scratch folder, and nothing is written around that."""
    debugfs(image, f"symlink /var/lib/edgepack {target}")
    before = {path for path in tmp_path.rglob("*") if path != image}
    outside = set(Path("/").glob("[!.]*"))
    flash(FlashRequest(bundle=bundle, target=str(image)))
    assert {path for path in tmp_path.rglob("*") if path != image} == before
    assert set(Path("/").glob("[!.]*")) == outside
    images.check(image)
    assert "releases" in debugfs(image, "ls /")


def test_links_to_files_of_the_host(image: Path, bundle: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("precious")
    (tmp_path / "folder").mkdir()
    debugfs(
        image,
        f"symlink /var/lib/edgepack {tmp_path}/folder",
        f"symlink /etc/systemd/system/edgepack.service {canary}",
        f"symlink /usr/local/bin/edgepack-runtime {canary}",
    )
    flash(FlashRequest(bundle=bundle, target=str(image)))
    assert canary.read_text() == "precious"
    assert list((tmp_path / "folder").iterdir()) == []
    images.check(image)
    inside = debugfs(image, f"ls -p {tmp_path}/folder")
    assert "/current/" in inside


def test_sparse_file_of_a_terabyte(image: Path, bundle: Path) -> None:
    debugfs(image, "sif /usr/bin/env size 0x10000000000")
    refused(image, bundle, "unknown architecture|damaged")


def test_release_larger_than_this_machine(image: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    debugfs(
        image,
        "mkdir /var/lib/edgepack",
        "cd /var/lib/edgepack",
        f"write {tmp_path}/sparse model",
    )
    refused(image, bundle, "larger than the free space here")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "\udcff", "a/b", ".."])
def test_names_that_are_not_printable(name: str, image: Path, bundle: Path, tmp_path: Path) -> None:
    """Names are bytes of the disk: these are overwritten there, and no path is made of them."""
    debugfs(image, "mkdir /etc/edgepack/XXXXXXXX")
    with image.open("rb") as file:
        place = file.read().index(b"XXXXXXXX")
    write(image, place, os.fsencode(name).ljust(8, b"_"))
    before = digest(image)
    try:
        flash(FlashRequest(bundle=bundle, target=str(image)))
    except FlashError:  # a wrong checksum of the folder, or a name that cannot be
        assert digest(image) == before
    assert not (tmp_path / "b______").exists()


def test_too_many_files(image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{Scratch.__module__}.MAX_FILES", 1)
    debugfs(image, "mkdir /var/lib/edgepack", "mkdir /var/lib/edgepack/a")
    refused(image, bundle, "too many files")


@pytest.mark.parametrize("length", [0, 1, 511, 4096, ROOT_START + 2 * MIB])
def test_truncated_image(length: int, image: Path, bundle: Path) -> None:
    os.truncate(image, length)
    refused(image, bundle, "table|end of the image")


def test_image_that_is_exchanged_meanwhile(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packager.flash.transfer import Changes

    compare = Changes.compare

    def exchange(self: Changes, *arguments: object) -> None:
        image.unlink()
        image.write_text("another")
        compare(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Changes, "compare", exchange)
    with pytest.raises(FlashError, match="exchanged"):
        flash(FlashRequest(bundle=bundle, target=str(image)))
    assert image.read_text() == "another"
