"""Requests of the service to the updater: taken once, completed after a cut, never trusted."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from device_runtime.bundle.release import Release, open_release
from device_runtime.durable import Folder
from device_runtime.errors import InstallError
from device_runtime.update import requests
from device_runtime.update.install import install
from device_runtime.update.journal import RequestState, read_request_state, write_request_state
from device_runtime.update.requests import REQUEST, RUNTIME, Request, Updater
from device_runtime.update.target import Target
from tests.support.bundles import draft
from tests.support.targets import ELF_X86_64, make_root

UPDATE = Request(id="a/update/1#", verb="update", reference="oci://127.0.0.1:5000/a/b")
BACK = Request(id="a/rollback/1#", verb="rollback")


class Device:
    """A device with one release, and an updater that notes what it does."""

    def __init__(self, folder: Path) -> None:
        self.root = make_root(folder / "root", ELF_X86_64)
        self.release: Release = install(draft().write(folder / "1.epk"), self.root)
        self.runtime = self.root / RUNTIME
        self.runtime.mkdir(parents=True)
        self.updater = Updater(self.runtime, self.root / "var/lib/edgepack")
        self.done: list[Request] = []
        self.error: Exception | None = None

    def state(self) -> Folder:
        return Target(self.root).folder("var/lib/edgepack")

    def act(self, request: Request) -> Release:
        self.done.append(request)
        if self.error is not None:
            raise self.error
        return open_release(self.release.folder)

    def carry_out(self) -> None:
        requests.carry_out(Target(self.root), {"update": self.act, "rollback": self.act})


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_request_is_taken_and_its_outcome_told(device: Device) -> None:
    device.carry_out()
    assert device.done == []
    device.updater.ask(UPDATE)
    assert device.updater.asked
    assert device.updater.outcome(UPDATE.id) is None
    device.carry_out()
    assert not device.updater.asked
    assert device.done == [UPDATE]
    ended = device.updater.outcome(UPDATE.id)
    assert ended is not None
    assert (ended.status, ended.release) == ("successful", device.release.digest)
    assert ended.version == device.release.manifest.version
    assert device.updater.outcome("another") is None


def test_a_failure_has_its_reason(device: Device) -> None:
    device.error = InstallError("too few keys that\nthe device trusts have signed it")
    device.updater.ask(UPDATE)
    device.carry_out()
    ended = device.updater.outcome(UPDATE.id)
    assert ended is not None
    assert (ended.status, ended.reason) == (
        "failed",
        "too few keys that the device trusts have signed it",
    )


def test_a_defect_is_an_outcome_too(device: Device) -> None:
    device.error = ValueError("a defect")
    device.updater.ask(UPDATE)
    with pytest.raises(ValueError, match="a defect"):
        device.carry_out()
    ended = device.updater.outcome(UPDATE.id)
    assert ended is not None
    assert ended.status == "failed"


def test_a_request_that_ended_is_not_carried_out_again(device: Device) -> None:
    for _ in range(2):
        device.updater.ask(UPDATE)
        device.carry_out()
    assert device.done == [UPDATE]


@pytest.mark.parametrize(
    ("request_", "before", "times"),
    [(UPDATE, "0" * 64, 1), (BACK, "0" * 64, 0), (BACK, "", 1)],
    ids=["update", "rollback that was done", "rollback that was not"],
)
def test_a_power_cut_in_the_middle(
    request_: Request, before: str, times: int, device: Device
) -> None:
    begun = RequestState(id=request_.id, status="begun", release=before or device.release.digest)
    with device.state() as state:
        write_request_state(state, begun)
    device.updater.ask(request_)
    device.carry_out()
    assert len(device.done) == times
    ended = device.updater.outcome(request_.id)
    assert ended is not None
    assert (ended.status, ended.release) == ("successful", device.release.digest)


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(msgspec.json.encode(UPDATE))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"[" * 16_000),
        lambda path: path.write_bytes(b'{"id": "1", "verb": "purge"}'),
        lambda path: path.write_bytes(b'{"id": "1", "verb": "update", "force": true}'),
        lambda path: path.write_bytes(b'{"id": "1", "verb": "update"' + b" " * 20_000 + b"}"),
        lambda path: path.write_bytes(b'{"id": "\xff", "verb": "update"}'),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        _link,
    ],
)
def test_what_is_not_a_request_is_removed(put: Callable[[Path], object], device: Device) -> None:
    put(device.runtime / REQUEST)
    device.carry_out()
    assert device.done == []
    assert not os.path.lexists(device.runtime / REQUEST)
    with device.state() as state:
        assert read_request_state(state) is None


def test_a_request_can_be_withdrawn(device: Device) -> None:
    device.updater.withdraw()
    device.updater.ask(UPDATE)
    device.updater.withdraw()
    assert list(device.runtime.iterdir()) == []
