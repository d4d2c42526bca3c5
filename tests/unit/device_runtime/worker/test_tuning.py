"""Threads that are kept: when they apply, and who may measure them."""

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.bundle.release import Release
from device_runtime.errors import ServiceError
from device_runtime.worker.placement import Placement
from device_runtime.worker.tuning import FILE_NAME, Setting, measuring, read, remove, serving, write
from tests.support import releases

SETTING = Setting(threads=3, cpus=(1, 2, 3))


@pytest.fixture
def release(tmp_path: Path) -> Release:
    model = tmp_path / "model"
    model.mkdir()
    (model / "genai_config.json").write_text('{"model": {}}')
    return releases.release(tmp_path / "release", model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def test_what_was_kept_is_read_by_any_user(release: Release, folder: Path) -> None:
    before = os.umask(0o077)
    try:
        write(folder, release, SETTING, 1.25)
    finally:
        os.umask(before)
    assert read(folder, release) == SETTING
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o644


def test_without_a_file_or_a_folder_the_default_applies(
    release: Release, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(folder, release) is None
    assert read(folder / "missing", release) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("release", "another release"),
        ("runtime", "another version of the program"),
        ("processor", "another processor"),
    ],
)
def test_setting_of_something_else_is_ignored_and_says_why(
    release: Release, folder: Path, caplog: pytest.LogCaptureFixture, field: str, reason: str
) -> None:
    write(folder, release, SETTING, 1.25)
    kept = json.loads((folder / FILE_NAME).read_bytes())
    (folder / FILE_NAME).write_text(json.dumps(kept | {field: "other"}))
    with caplog.at_level(logging.WARNING):
        assert read(folder, release) is None
    (record,) = caplog.records
    assert record.message == "tuning_ignored"
    assert reason in record.__dict__["edgepack_fields"]["reason"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "{}",
        "\xff",
        '{"release": 1}',
    ],
    ids=["empty", "deep", "no fields", "not UTF-8", "wrong type"],
)
def test_file_that_is_not_a_tuning_is_ignored(
    release: Release, folder: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (folder / FILE_NAME).write_bytes(text.encode("latin-1"))
    assert read(folder, release) is None
    assert [record.message for record in caplog.records] == ["tuning_ignored"]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 1, "cpus": [-1]}, {"threads": 9999}])
def test_impossible_threads_are_ignored(
    release: Release, folder: Path, wrong: dict[str, object]
) -> None:
    write(folder, release, SETTING, 1.25)
    kept = json.loads((folder / FILE_NAME).read_bytes())
    (folder / FILE_NAME).write_text(json.dumps(kept | {"setting": wrong}))
    assert read(folder, release) is None


def test_link_is_not_followed(release: Release, folder: Path, tmp_path: Path) -> None:
    write(folder, release, SETTING, 1.25)
    (folder / FILE_NAME).rename(tmp_path / "elsewhere")
    (folder / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    assert read(folder, release) is None


def test_failed_write_leaves_what_was_kept(
    release: Release, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, release, SETTING, 1.25)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write(folder, release, Setting(threads=1), 2.0)
    monkeypatch.undo()
    assert read(folder, release) == SETTING
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_remove_tells_whether_there_was_something(release: Release, folder: Path) -> None:
    assert not remove(folder)
    write(folder, release, SETTING, 1.25)
    assert remove(folder)
    assert list(folder.iterdir()) == []


def test_measuring_is_refused_while_a_service_runs(folder: Path) -> None:
    with (
        serving(folder),
        serving(folder),
        pytest.raises(ServiceError, match="running") as failure,
        measuring(folder),
    ):
        pass
    assert "systemctl stop" in failure.value.hint
    with measuring(folder), pytest.raises(ServiceError, match="another tune"), measuring(folder):
        pass
    with measuring(folder):
        pass


def test_service_starts_while_something_measures(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with measuring(folder), serving(folder):
        assert [record.message for record in caplog.records] == ["tune_is_running"]


def test_service_without_a_state_folder_starts(folder: Path) -> None:
    with serving(None), serving(folder / "missing"):
        pass


def test_pinned_process_stays_on_its_cpus() -> None:
    first = min(os.sched_getaffinity(0))
    code = (
        "import os; from device_runtime.worker.tuning import Setting; "
        f"Setting(threads=1, cpus=({first},)).pin(); print(os.sched_getaffinity(0)); "
        "Setting(threads=1, cpus=(8000,)).pin(); print(os.sched_getaffinity(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [f"{{{first}}}"] * 2


def test_placement_starts_the_process_with_the_setting_and_says_so(release: Release) -> None:
    def placement(setting: Setting | None) -> Placement:
        return Placement.of_release(release, threads=2, kv_cache_mib=0, wanted="cpu", tuned=setting)

    tuned, plain = placement(SETTING), placement(None)
    assert tuned.state.reason == "tuned: 3 threads on CPU 1,2,3"
    assert plain.state.reason == ""
    for command, threads, cpus in ((tuned.command, "3", "1,2,3"), (plain.command, "2", "")):
        assert command[command.index("--threads") + 1] == threads
        assert command[command.index("--cpus") + 1] == cpus


def test_setting_reads_well() -> None:
    assert str(Setting(threads=1)) == "1 thread"
    assert str(SETTING) == "3 threads on CPU 1,2,3"
