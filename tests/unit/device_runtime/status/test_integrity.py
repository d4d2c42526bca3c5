"""The files of a release that serves."""

import asyncio
import logging
from pathlib import Path

import pytest

from device_runtime.bundle.release import Release
from device_runtime.status import integrity
from device_runtime.status.integrity import Integrity
from tests.support import releases


@pytest.fixture
def release(tmp_path: Path) -> Release:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.data").write_bytes(b"weights")
    return releases.release(tmp_path / "release", model)


def test_a_changed_file_is_told_until_it_is_mended(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    path = release.folder / release.manifest.records[-1].path
    content = path.read_bytes()

    async def run() -> None:
        checked = Integrity(release)
        assert await checked.check() == "" == checked.damage
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with caplog.at_level(logging.ERROR):
            for _ in range(2):
                damage = await checked.check()
        assert path.name in damage
        assert checked.damage == damage
        assert len(caplog.records) == 1
        path.write_bytes(content)
        assert await checked.check() == "" == checked.damage

    asyncio.run(run())


def test_it_checks_by_itself(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "FIRST_S", 0.0)
    monkeypatch.setattr(integrity, "EVERY_S", 0.01)

    async def run() -> None:
        checked = Integrity(release)
        task = asyncio.create_task(checked.keep_checking())
        await asyncio.sleep(0.1)
        assert checked.damage == ""
        (release.folder / "extra").touch()
        while not checked.damage:
            await asyncio.sleep(0.01)
        assert "extra is not part of the release" in checked.damage
        task.cancel()

    asyncio.run(run())
