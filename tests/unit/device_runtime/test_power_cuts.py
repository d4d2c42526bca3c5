"""What is written is on the disk before its name points at it, and so is the name at the end."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import open_release
from device_runtime.chat.conversation import Conversation
from device_runtime.server import api_keys
from device_runtime.update.install import install
from packager.aside import written_aside
from tests.support.bundles import draft
from tests.support.power_cuts import Disk
from tests.support.targets import ELF_X86_64, make_root


def test_power_cut_takes_nothing_of_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path / "root", ELF_X86_64)
    bundle = draft().write(tmp_path / "b.epk")
    disk = Disk(root, monkeypatch)
    release = install(bundle, root)
    assert disk.too_early == []
    assert disk.lost(root) == ["var/lib/edgepack/.lock"]
    (release.folder / "model/tokenizer.json").write_bytes(b"")
    damaged = disk.lost(root)
    install(bundle, root)
    assert set(disk.too_early) <= set(damaged)
    assert disk.lost(root) == ["var/lib/edgepack/.lock"]


def test_installation_that_is_cut_off_anywhere_leaves_a_whole_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever flush is the last: `current` leads to what was there, or to all of what is new."""
    root = make_root(tmp_path / "root", ELF_X86_64)
    before = install(draft().write(tmp_path / "1.epk"), root)
    bundle = draft().replaced(version="2.0.0").write(tmp_path / "2.epk")
    left = 0

    def flush(_: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", flush)
    current = root / "var/lib/edgepack/current"
    for steps in range(1, 100):
        left = steps
        try:
            after = install(bundle, root)
        except KeyboardInterrupt:
            open_release(current).verify()
        else:
            break
        shutil.rmtree(root / "var/lib/edgepack/releases" / digest_of(bundle), ignore_errors=True)
        current.unlink()
        current.symlink_to(f"releases/{before.digest}")
    assert steps > 10
    assert current.resolve() == after.folder
    assert len(list(after.folder.parent.iterdir())) == 2


def digest_of(path: Path) -> str:
    with open_bundle(path) as bundle:
        return bundle.digest


def save_conversation(folder: Path) -> None:
    conversation = Conversation()
    conversation.add_question("Hello")
    conversation.save(folder / "chat.json")


def write_on_host(folder: Path) -> None:
    with written_aside(folder / "report.html", "") as file:
        file.write(b"text")


def make_key(folder: Path) -> None:
    api_keys.create(folder / "keys", "name")


@pytest.mark.parametrize("write", [save_conversation, write_on_host, make_key])
def test_power_cut_leaves_a_file_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    write(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert (disk.too_early, disk.lost(tmp_path)) == ([], [])


@pytest.mark.parametrize("write", [save_conversation, write_on_host, make_key])
def test_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []
