"""The verbs `update` and `rollback`, with an updater that the test drives."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from device_runtime.durable import open_folder
from device_runtime.mqtt import updates as module
from device_runtime.mqtt.commands import Call, CommandError
from device_runtime.mqtt.updates import Updates
from device_runtime.update.journal import RequestState, write_request_state
from device_runtime.update.requests import REQUEST, Updater

REFERENCE = f"oci://127.0.0.1:5000/a/b@sha256:{'0' * 64}"
CALL = Call("1", "key", {"reference": REFERENCE}, lambda _: None)
DONE = {"release": "f" * 64, "version": "2"}


class Device:
    """The folders of a device, and its verbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "edgepack"
        self.working = folder / "edgepack-updater"
        self.runtime.mkdir()
        self.updates = Updates(Updater(self.runtime, folder))
        self.taken = 0

    def ends(self, status: Any, id: str = "key", **fields: str) -> None:
        with open_folder(self.folder) as state:
            write_request_state(state, RequestState(id=id, status=status, **fields))

    async def take(self) -> None:
        while not (self.runtime / REQUEST).exists():
            await asyncio.sleep(0.01)
        self.working.mkdir()
        (self.runtime / REQUEST).unlink()
        self.taken += 1


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    return Device(tmp_path)


def test_it_waits_for_the_outcome(device: Device) -> None:
    async def run() -> dict[str, Any]:
        update = asyncio.create_task(device.updates.update(CALL))
        await device.take()
        device.ends("begun")
        await asyncio.sleep(0.1)
        assert not update.done()
        device.ends("successful", **DONE)
        return await update

    assert asyncio.run(run()) == DONE
    # After a restart of the service, the outcome is there already.
    later = Updates(Updater(device.runtime, device.folder))
    assert asyncio.run(later.update(CALL)) == DONE
    assert device.taken == 1


def test_a_failure_has_its_reason(device: Device) -> None:
    device.ends("failed", reason="2.0.0 rolled back: not ready within 120 s")
    with pytest.raises(CommandError, match="rolled back: not ready"):
        asyncio.run(device.updates.update(CALL))


def test_an_updater_that_works_on_it_is_not_asked_again(device: Device) -> None:
    device.working.mkdir()

    async def run() -> None:
        rollback = asyncio.create_task(device.updates.rollback(CALL))
        await asyncio.sleep(0.1)
        assert not (device.runtime / REQUEST).exists()
        device.ends("successful", **DONE)
        await rollback

    asyncio.run(run())


def test_an_updater_without_an_outcome_is_asked_once_more(device: Device) -> None:
    async def run() -> None:
        update = asyncio.create_task(device.updates.update(CALL))
        for _ in range(module.ATTEMPTS):
            await device.take()
            device.ends("begun")
            device.working.rmdir()
        with pytest.raises(CommandError, match="the updater failed"):
            await update

    asyncio.run(run())
    assert device.taken == module.ATTEMPTS


def test_nobody_takes_the_request(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAKEN_S", 0.05)
    with pytest.raises(CommandError, match=r"edgepack-updater\.path must be active"):
        asyncio.run(device.updates.update(CALL))
    assert list(device.runtime.iterdir()) == []


def test_a_folder_that_cannot_be_written(device: Device) -> None:
    device.runtime.rmdir()
    with pytest.raises(CommandError, match="cannot be asked"):
        asyncio.run(device.updates.update(CALL))


def test_one_at_a_time(device: Device) -> None:
    async def run() -> None:
        update = asyncio.create_task(device.updates.update(CALL))
        rollback = asyncio.create_task(device.updates.rollback(CALL._replace(key="other")))
        await device.take()
        await asyncio.sleep(0.1)
        assert not (device.runtime / REQUEST).exists()
        device.working.rmdir()
        device.ends("successful", **DONE)
        await update
        await device.take()
        device.ends("successful", id="other", **DONE)
        await rollback

    asyncio.run(run())
    assert device.taken == 2
