"""Flash an update over SSH: the difference from the device's release, if that moves less."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from tests.support.commands import edgepack, refused
from tests.support.ssh_device import (
    SshDevice,
    current,
    moved,
    run_until,
    runnable,
    ssh_device,
    with_file,
)
from tests.support.updates import WEIGHTS, scattered

pytestmark = pytest.mark.requires("sshd", "sudo", "unshare", "root")

MB = 1_000_000


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SshDevice]:
    with ssh_device(tmp_path / "device") as device:
        yield device


def versions(folder: Path, size: int, *more: tuple[str, bytes]) -> tuple[Path, Path]:
    """Two bundles: a large file differs a little, and the second one has more files."""
    weights = os.urandom(size)
    old = with_file(runnable(), WEIGHTS, weights)
    new = with_file(runnable(), WEIGHTS, scattered(weights, 20))
    for path, content in more:
        new = with_file(new, path, content)
    new = new.replaced(sequence=2, version="2.0.0")
    return old.write(folder / "old.epk"), new.write(folder / "new.epk")


def has(device: SshDevice, bundle: Path) -> bool:
    """Whether the current release is that of a bundle, byte for byte."""
    with open_bundle(bundle) as opened:
        return current(device).name == opened.digest


def test_update_from_the_devices_release_moves_little(device: SshDevice, tmp_path: Path) -> None:
    old, new = versions(tmp_path, 2 * MB)
    assert device.flash(old).status == 0
    delta = ("--delta-from", old, "--json")
    preview = moved(device.flash(new, "--dry-run", *delta))
    assert list(device.incoming.iterdir()) == []
    sent = moved(device.flash(new, *delta))
    assert sent == preview
    assert sum(sent.values()) < 50_000
    assert has(device, new)
    assert list(device.incoming.iterdir()) == []


def test_device_with_another_release_gets_what_it_lacks(device: SshDevice, tmp_path: Path) -> None:
    old, new = versions(tmp_path, MB)
    assert device.flash(runnable().write(tmp_path / "other.epk")).status == 0
    outcome = device.flash(new, "--delta-from", old, "--json")
    assert "does not run old.epk (1.0.0)" in outcome.err
    assert moved(outcome)["model"] == MB
    assert has(device, new)


@pytest.mark.parametrize("command", ["rm", "sed -i s/exec/exit/"])
def test_device_whose_program_does_not_run(device: SshDevice, tmp_path: Path, command: str) -> None:
    old, new = versions(tmp_path, MB)
    assert device.flash(old).status == 0
    device.run(f"{command} /usr/local/bin/edgepack-runtime")
    outcome = device.flash(new, "--delta-from", old, "--json")
    assert "does not run old.epk (1.0.0)" in outcome.err
    assert moved(outcome)["runtime"] > 0
    assert has(device, new)


def test_update_that_saves_nothing_is_not_sent(device: SshDevice, tmp_path: Path) -> None:
    old, new = versions(tmp_path, 100)
    assert device.flash(old).status == 0
    outcome = device.flash(new, "--delta-from", old, "--json")
    assert "The update from old.epk (1.0.0) has 0.0 MB" in outcome.err
    assert moved(outcome)["model"] == 100
    assert has(device, new)


def test_update_on_a_damaged_file_becomes_a_whole_transfer(
    device: SshDevice, tmp_path: Path
) -> None:
    old, new = versions(tmp_path, MB)
    assert device.flash(old).status == 0
    (device.state / "releases" / device.current / WEIGHTS).write_bytes(bytes(MB))
    outcome = device.flash(new, "--delta-from", old, "--json")
    assert "sending everything" in outcome.err
    assert moved(outcome)["model"] >= MB
    assert has(device, new)


@pytest.mark.parametrize("damaged", [False, True])
def test_update_that_is_cut_goes_on(device: SshDevice, tmp_path: Path, *, damaged: bool) -> None:
    old, new = versions(tmp_path, 20 * MB, ("model/more", os.urandom(30 * MB)))
    assert device.flash(old).status == 0
    delta = ("--delta-from", old)
    outcome = run_until(device, new, "*.epk", 10 * MB, device.cut, arguments=delta)
    refused(outcome, 8, "is lost", "goes on where this one ended")
    (part,) = device.incoming.rglob("*.epk")
    arrived = part.stat().st_size
    if damaged:
        with part.open("r+b") as file:
            file.write(b"damaged")
        arrived -= 30 * MB  # and all of it is sent again
    last = moved(device.flash(new, *delta, "--json"))
    assert last["model"] == 0
    assert last["other"] < 30 * MB + 50_000 - arrived
    assert has(device, new)


def test_update_is_for_devices_over_ssh(tmp_path: Path) -> None:
    bundle = runnable().write(tmp_path / "bundle.epk")
    for target in (tmp_path, tmp_path / "card.img"):
        target.is_dir() or target.write_bytes(bytes(4096))
        outcome = edgepack("flash", bundle, target, "--delta-from", bundle)
        refused(outcome, 8, "--delta-from is not for a", "--help")


def test_file_of_an_update_is_refused_by_name(tmp_path: Path) -> None:
    old, new = versions(tmp_path, MB)
    update = tmp_path / "update.epk"
    assert edgepack("diff", old, new, "-o", update).status == 0
    for target in (tmp_path, "ssh://127.0.0.1:1"):
        refused(edgepack("flash", update, target), 7, "this is an update", "complete bundle")
