"""Flash into disk images: as an ordinary user, with the real e2fsprogs."""

import json
import lzma
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace

from device_runtime.errors import InstallError
from device_runtime.update.first_boot import FirstBoot
from packager import console
from packager.errors import FlashError
from packager.flash import ext4, flash
from packager.flash.request import FlashRequest
from tests.support import bundles, images
from tests.support.bundles import draft
from tests.support.commands import environment, refused
from tests.support.images import MIB, ROOT_START, digest, flash_as_nobody, make_image, nodes

pytestmark = pytest.mark.requires("debugfs", "mkfs.ext4", "mkfs.vfat", "sfdisk")

NEWER = {"version": "1.0.1", "sequence": 2}
BOTH = pytest.mark.parametrize("table", ["mbr", "gpt"])


@pytest.fixture
def folder() -> Iterator[Path]:
    with images.nobodys_folder() as folder:
        yield folder


@pytest.fixture
def bundle(folder: Path) -> Path:
    return draft().write(folder / "b.epk")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return images.device_tree(tmp_path / "tree")


@pytest.fixture
def image(folder: Path, tree: Path) -> Path:
    return make_image(folder / "a.img", "mbr", tree)


def flashed_folder(tree: Path, *bundles: Path) -> dict[str, images.Node]:
    """What flashing a mounted root file system gives."""
    for path in bundles:
        flash(FlashRequest(bundle=path, target=str(tree)))
    return nodes(tree)


def around_root(image: Path) -> bytes:
    """All bytes in front of the root file system: the table and the FAT partition."""
    with image.open("rb") as file:
        return file.read(ROOT_START)


def unchanged(image: Path, before: str) -> None:
    """The image is as it was, and nothing lies around it that was not there."""
    assert digest(image) == before
    rest = {path.name for path in image.parent.iterdir()} - {"home"}
    assert rest <= {image.name, "b.epk", "tools"}


@pytest.mark.requires("root", "setpriv")
@BOTH
def test_ordinary_user_gets_the_tree_that_a_mounted_root_gets(
    table: str, folder: Path, tree: Path, bundle: Path, tmp_path: Path
) -> None:
    image = make_image(folder / "a.img", table, tree)
    front = around_root(image)
    outcome = flash_as_nobody(folder, bundle, image, "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["target"] == str(image)
    images.check(image)
    assert around_root(image) == front
    assert nodes(images.extract(image, tmp_path / "rdump")) == flashed_folder(tree, bundle)


@pytest.mark.requires("root", "setpriv")
def test_update_keeps_the_old_release(
    folder: Path, tree: Path, image: Path, bundle: Path, tmp_path: Path
) -> None:
    newer = draft().replaced(**NEWER).write(folder / "newer.epk")
    for path in (bundle, newer):
        outcome = flash_as_nobody(folder, path, image, "--json")
        assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["moved"]["runtime"], result["moved"]["model"]) == (0, 0)
    model = f"/var/lib/edgepack/releases/{result['release']}/model/model.onnx.data"
    assert "Links: 2 " in images.debugfs(image, f"stat {model}")
    images.check(image)
    after = nodes(images.extract(image, tmp_path / "rdump"))
    assert after == flashed_folder(tree, bundle, newer)
    refused(flash_as_nobody(folder, bundle, image), 8, "older", str(image))
    assert flash_as_nobody(folder, bundle, image, "--allow-downgrade").status == 0
    images.check(image)


@pytest.mark.requires("root")
def test_links_of_the_image_are_followed_inside_of_it(
    folder: Path, tree: Path, bundle: Path, tmp_path: Path
) -> None:
    (tree / "data").mkdir()
    (tree / "var").rename(tree / "data/var")
    (tree / "var").symlink_to("/data/var")
    (tree / "usr/local/bin").rmdir()
    (tree / "usr/local/bin").symlink_to("../../../../data/" + "long-name-" * 8)
    image = make_image(folder / "a.img", "mbr", tree)
    flash(FlashRequest(bundle=bundle, target=str(image)))
    images.check(image)
    assert nodes(images.extract(image, tmp_path / "rdump")) == flashed_folder(tree, bundle)


@pytest.mark.requires("root")
def test_settings_and_secrets(image: Path, tree: Path, bundle: Path, tmp_path: Path) -> None:
    """The second time, the files of the first get another name."""
    for text in ("threads = 1\n", "threads = 2\n"):
        settings = FirstBoot(
            config=text, mqtt_password=f"secret of {text}", api_key=f"flash {0:064x} -"
        )
        for target in (image, tree):
            flash(FlashRequest(bundle=bundle, target=str(target), settings=settings))
    images.check(image)
    after = nodes(images.extract(image, tmp_path / "rdump"))
    assert after == nodes(tree)
    assert after["etc/edgepack/secrets/mqtt-password"].mode == 0o100600


def test_names_with_spaces_and_quotes(image: Path, folder: Path, tmp_path: Path) -> None:
    base = draft()
    first = base.manifest.records[0]
    hard = ('model/a "b" c', "model/it's <12> é", "model/<2>", "model/#x ~!%", "model/-R")
    path = base.with_records(*(replace(first, path=name) for name in hard))
    flash(FlashRequest(bundle=path.write(folder / "n.epk"), target=str(image)))
    images.check(image)
    root = images.extract(image, tmp_path / "rdump")
    release = next((root / "var/lib/edgepack/releases").iterdir())
    contents = {(release / name).read_bytes() for name in hard}
    assert contents == {bundles.PROGRAM}


@pytest.mark.parametrize("kind", ["img.xz", "img.zst", "zip"])
def test_compressed_image_is_unpacked_beside_it(
    kind: str, folder: Path, tree: Path, bundle: Path
) -> None:
    plain = make_image(folder / "plain", "mbr", tree)
    packed = folder / f"os.{kind}"
    if kind == "img.xz":
        packed.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
    elif kind == "img.zst":
        packed.write_bytes(zstandard.compress(plain.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("readme.txt", "hello")
            archive.write(plain, "../../elsewhere/os.img")
    before = digest(packed)
    result = flash(FlashRequest(bundle=bundle, target=str(packed)))
    image = folder / "os.img"
    assert result.target == str(image)
    assert (digest(packed), image.stat().st_size) == (before, 256 * MIB)
    assert image.stat().st_blocks * 512 < 64 * MIB
    images.check(image)
    assert around_root(image) == around_root(plain)
    with pytest.raises(FlashError, match="exists already"):
        flash(FlashRequest(bundle=bundle, target=str(packed)))


def test_output_leaves_the_target_as_it_is(image: Path, bundle: Path, folder: Path) -> None:
    before = digest(image)
    output = folder / "new.img"
    assert flash(FlashRequest(bundle=bundle, target=str(image), output=output)).target == str(
        output
    )
    assert digest(image) == before
    images.check(output)


@pytest.mark.requires("root", "setpriv")
@BOTH
def test_grow(table: str, folder: Path, tree: Path, bundle: Path, tmp_path: Path) -> None:
    image = make_image(folder / "a.img", table, tree, 128 * MIB)
    refused(flash_as_nobody(folder, bundle, image), 9, "MiB free", "--grow")
    outcome = flash_as_nobody(folder, bundle, image, "--grow", "350M")
    assert outcome.status == 0, outcome.err
    images.check(image)
    parts = json.loads(images.run("sfdisk", "-J", image))["partitiontable"]["partitions"]
    assert "No errors detected" in images.run("sfdisk", "--verify", image)
    sectors = image.stat().st_size // 512
    assert sectors >= (128 * MIB + 350_000_000) // 512
    end = parts[1]["start"] + parts[1]["size"]
    assert sectors - 34 <= end <= sectors - (33 if table == "gpt" else 0)
    superblock = images.run("dumpe2fs", "-h", images.address(image))
    assert int(superblock.split("Block count:")[1].split()[0]) == parts[1]["size"] * 512 // 4096
    # The last backup of the superblock is in the part that was added.
    assert images.bytes_at(image, ROOT_START + 3 * 32768 * 4096 + 0x38, 2) == b"\x53\xef"
    assert nodes(images.extract(image, tmp_path / "rdump")) == flashed_folder(tree, bundle)


def test_dry_run_changes_nothing(
    image: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(image)
    result = flash(FlashRequest(bundle=bundle, target=str(image), dry_run=True))
    assert result.dry_run
    unchanged(image, before)
    notes = capsys.readouterr().err
    assert f"partition 2: new /var/lib/edgepack/releases/{result.release}: " in notes
    assert "partition 2: file /etc/systemd/system/edgepack.service" in notes
    assert f"link /var/lib/edgepack/current -> releases/{result.release}" in notes


def test_bundle_for_another_architecture(image: Path, folder: Path) -> None:
    before = digest(image)
    other = draft("aarch64").write(folder / "b.epk")
    with pytest.raises(InstallError, match=f"into {image}: the runtime is for aarch64"):
        flash(FlashRequest(bundle=other, target=str(image)))
    unchanged(image, before)


STEPS = ("Copying", "Checking the root", "Reading", "Unpacking", "Writing", "Checking the copy")


@pytest.mark.parametrize("title", STEPS)
def test_interrupt_in_each_step(
    title: str, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(image)
    step = console.step

    def interrupted(text: str) -> object:
        if text.startswith(title):
            raise KeyboardInterrupt
        return step(text)

    monkeypatch.setattr(console, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flash(FlashRequest(bundle=bundle, target=str(image)))
    unchanged(image, before)


@pytest.mark.parametrize("program", ["e2fsck", "debugfs"])
def test_interrupt_while_a_program_works(program: str, image: Path, bundle: Path) -> None:
    before = digest(image)
    tools = image.parent / "tools"
    tools.mkdir()
    started = tools / "started"
    # Waits where the file system is changed, and works as usual before.
    condition = '[ "$1" = -w ]' if program == "debugfs" else "true"
    real = shutil.which(program)
    script = f'#!/bin/sh\nif {condition}; then : >{started}; exec sleep 60; fi\nexec {real} "$@"\n'
    (tools / program).write_text(script)
    (tools / program).chmod(0o755)
    env = environment()
    with subprocess.Popen(
        [sys.executable, "-m", "packager", "flash", bundle, image],
        env={**env, "PATH": f"{tools}:{env['PATH']}"},
        stderr=subprocess.PIPE,
    ) as process:
        limit = time.monotonic() + 60
        while not started.exists() and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert b"interrupted; no partial output was left" in errors
    unchanged(image, before)


def test_missing_program(image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(image)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(ext4, "SYSTEM_FOLDERS", "/nowhere")
    with pytest.raises(FlashError, match="debugfs is missing") as caught:
        flash(FlashRequest(bundle=bundle, target=str(image)))
    assert "apt-get install e2fsprogs" in caught.value.hint
    unchanged(image, before)


def test_failing_write_leaves_the_image(image: Path, bundle: Path) -> None:
    """A name that debugfs finds taken: the installer did not see the pipe of that name."""
    images.debugfs(image, "mkdir /var/lib/edgepack", "cd /var/lib/edgepack", "mknod .lock p")
    before = digest(image)
    with pytest.raises(FlashError, match="debugfs: "):
        flash(FlashRequest(bundle=bundle, target=str(image)))
    unchanged(image, before)
