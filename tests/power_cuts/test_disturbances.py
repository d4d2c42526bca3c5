"""Damaged journals, a wrong clock and a second installer: the device goes on serving."""

import os
import signal
from collections.abc import Iterator

import pytest

from device_runtime.bundle.release import open_release
from device_runtime.errors import InstallError
from device_runtime.update.install import install
from device_runtime.update.links import STATE
from tests.power_cuts import sweeps
from tests.power_cuts.scenarios import Device, tree
from tests.support.commands import edgepack_runtime
from tests.support.commands import refused as refused_command


@pytest.fixture
def on_trial() -> Iterator[Device]:
    """A device with a release on trial."""
    with sweeps.device_before("roll back") as device:
        device.reset()
        yield device


@pytest.mark.parametrize("damage", [b"", b'{"release":', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["pending.json", "history.json"])
def test_damaged_journal_is_set_aside_and_everything_works(
    on_trial: Device, name: str, damage: bytes
) -> None:
    journal = on_trial.root / STATE / name
    arguments = ("--root", on_trial.root)
    for command in (
        ("releases",),
        ("rollback",),
        ("install", on_trial.root.with_name("4.epk")),
        ("gc",),
        ("purge", "--all"),
    ):
        journal.write_bytes(damage)
        done = edgepack_runtime(*command, *arguments)
        assert done.status == 0, done.err
        assert "Traceback" not in done.err
        if command[0] != "purge":
            open_release(on_trial.root / STATE / "current").verify()


def test_nothing_depends_on_the_clock() -> None:
    """The files of a device whose clock was wrong have any times: 1970, or years ahead."""
    trees = []
    for times in (lambda number: 0, lambda number: 4_000_000_000 - number, None):
        with sweeps.device_before("update") as device:
            device.reset()
            for number, path in enumerate(sorted(device.root.rglob("*"))):
                if times is not None:
                    at = times(number)
                    os.utime(path, (at, at), follow_symlinks=False)
            device.quietly_change()
            device.start()
            device.converge()
            trees.append(tree(device.root, shared=True))
    assert trees[0] == trees[1] == trees[2]


def test_one_of_two_installers_is_refused_and_the_other_succeeds() -> None:
    with sweeps.device_before("update") as device:
        device.reset()
        bundle = device.root.with_name("4.epk")
        ready, go_on = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            waited = False

            def wait(_: int) -> None:
                nonlocal waited
                if not waited:
                    waited = True
                    os.write(ready[1], b".")
                    os.read(go_on[0], 1)

            try:
                install(bundle, device.root, on_bytes=wait)
                os._exit(0)
            finally:
                os._exit(1)
        try:
            assert os.read(ready[0], 1)
            done = edgepack_runtime("install", bundle, "--root", device.root)
            refused_command(done, InstallError.exit_code, "another installation is running")
            os.write(go_on[1], b".")
            assert os.waitpid(child, 0)[1] == 0
            child = 0
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        device.start()
        assert device.is_done
        device.converge()
