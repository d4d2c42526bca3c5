"""The heartbeat of the service: a file that is always whole, and never in the way."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from device_runtime.heartbeat import FILE_NAME, Heartbeat, read
from device_runtime.status import heartbeat
from device_runtime.status.report import RequestStats, RuntimeStatus
from tests.support import fakes

pytestmark = pytest.mark.anyio


def status() -> RuntimeStatus:
    return fakes.runtime_status(RequestStats())


async def beating(folder: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.01)
    task = asyncio.create_task(heartbeat.keep_beating(folder, status))
    await asyncio.sleep(seconds)
    assert not task.done()
    task.cancel()


async def test_it_says_who_runs_what_and_how_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await beating(tmp_path, 0.1, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    beat = read((tmp_path / FILE_NAME).read_bytes())
    assert beat is not None
    assert (beat.pid, beat.release, beat.health) == (os.getpid(), "0" * 64, "ready")
    assert (beat.worker_restarts, beat.self_check) == (2, None)
    assert beat.beat > 1


async def test_folder_that_cannot_be_written_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await beating(tmp_path / "missing", 0.1, monkeypatch)
    assert [record.msg for record in caplog.records] == ["no_heartbeat"]


def test_file_of_another_version_is_read_and_nonsense_is_not() -> None:
    beat = Heartbeat(
        pid=1,
        run="a",
        release="b",
        health="ready",
        worker_restarts=0,
        last_error="",
        memory_bytes=0,
        self_check=None,
        beat=0,
    )
    text = b'{"later": {"x": 1}, "pid": 1, "run": "a", "release": "b", "health": "ready", '
    text += (
        b'"worker_restarts": 0, "last_error": "", "memory_bytes": 0, "self_check": null, "beat": 0}'
    )
    assert read(text) == beat
    for nonsense in (b"", b"{}", b"\xff", b"[" * 60_000, text[:-1]):
        assert read(nonsense) is None
