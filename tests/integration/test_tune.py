"""`edgepack-runtime tune`, and the programs that use what it keeps, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from device_runtime.bench.tuning import Outcome
from device_runtime.bundle.release import Release
from device_runtime.worker import tuning
from device_runtime.worker.tuning import FILE_NAME, Setting
from tests.support import releases
from tests.support.commands import edgepack_runtime, environment, refused
from tests.support.serving import Serving

CPU = min(os.sched_getaffinity(0))
KEPT = Setting(threads=1, cpus=(CPU,))


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("tune") / "release"
    return releases.release(folder, tiny_onnx, context_length=256)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def options(release: Release, state: Path) -> tuple[str, ...]:
    return ("--release", str(release.folder), "--state-folder", str(state))


def test_json_has_what_was_tried_and_only_a_winner_is_kept(release: Release, state: Path) -> None:
    done = edgepack_runtime("tune", *options(release, state), "--json")
    assert done.status == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    assert set(result) == set(Outcome.__struct_fields__)
    assert result["release"] == release.digest
    default, *others = result["tried"]
    assert default["setting"] == {"threads": 2, "cpus": []}
    assert default["decode"]["median"] > 0
    assert default["prefill"]["median"] > 0
    assert {"threads": 1, "cpus": []} in [row["setting"] for row in others]
    kept = tuning.read(state, release)
    if result["chosen"] is None:
        assert kept is None
    else:
        assert result["chosen"]["gain"] >= 1.03
        assert result["chosen"]["setting"]["threads"] == (kept and kept.threads)
    assert "looking at the default, 2 threads" in done.err


def test_time_that_is_too_short_changes_nothing(release: Release, state: Path) -> None:
    tuning.write(state, release, KEPT, 1.5)
    before = (state / FILE_NAME).read_bytes()
    done = edgepack_runtime("tune", *options(release, state), "--seconds", "1")
    assert done.status == 0, done.err
    assert "nothing has changed: the time was over" in done.out
    assert "None" not in done.out
    assert (state / FILE_NAME).read_bytes() == before


def test_ctrl_c_leaves_what_was_kept_and_ends_its_process(release: Release, state: Path) -> None:
    tuning.write(state, release, KEPT, 1.5)
    before = (state / FILE_NAME).read_bytes()
    command = [sys.executable, "-m", "device_runtime", "tune", *options(release, state)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        while "worker_loaded" not in process.stderr.readline():
            assert process.poll() is None
        children = psutil.Process(process.pid).children()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not any(child.is_running() for child in children)
    assert (state / FILE_NAME).read_bytes() == before
    assert [path.name for path in state.iterdir()] == [FILE_NAME]


def test_service_uses_what_was_kept_says_so_and_keeps_tune_out(
    release: Release, state: Path
) -> None:
    tuning.write(state, release, KEPT, 1.5)
    with Serving(release.folder, "--state-folder", str(state)) as server:
        status = server.get("/v1/status")
        assert status["processor"]["reason"] == f"tuned: 1 thread on CPU {CPU}"
        assert status["settings"]["threads"] == 1
        assert psutil.Process(server.worker).cpu_affinity() == [CPU]
        assert server.chat().status_code == 200
        outcome = edgepack_runtime("tune", *options(release, state))
        refused(outcome, 13, "is running", "systemctl stop")
        assert "looking at" not in outcome.err
    # Its end, however it comes, frees the folder.
    done = edgepack_runtime("tune", *options(release, state), "--seconds", "1")
    assert done.status == 0, done.err


def test_configured_threads_have_priority(release: Release, state: Path) -> None:
    tuning.write(state, release, KEPT, 1.5)
    with Serving(release.folder, "--state-folder", str(state), "--threads", "2") as server:
        status = server.get("/v1/status")
        assert status["processor"]["reason"] == ""
        assert status["settings"]["threads"] == 2
        assert len(psutil.Process(server.worker).cpu_affinity()) == len(os.sched_getaffinity(0))


def test_generate_uses_it_and_ignores_that_of_another_release(
    release: Release, state: Path, tmp_path: Path
) -> None:
    config = tmp_path / "runtime.toml"
    config.write_text(f'state_folder = "{state}"\n')
    command = ("generate", "--release", release.folder, "--config", config, "--max-tokens", "1")
    tuning.write(state, release, KEPT, 1.5)
    done = edgepack_runtime(*command, "Hi")
    assert done.status == 0, done.err
    assert "tuning_ignored" not in done.err
    kept = json.loads((state / FILE_NAME).read_bytes())
    (state / FILE_NAME).write_text(json.dumps(kept | {"release": "0" * 64}))
    done = edgepack_runtime(*command, "Hi")
    assert done.status == 0, done.err
    assert "it was measured with another release" in done.err


def test_reset_returns_to_the_default(release: Release, state: Path) -> None:
    tuning.write(state, release, KEPT, 1.5)
    done = edgepack_runtime("tune", *options(release, state), "--reset")
    assert done.status == 0, done.err
    assert f"{state / FILE_NAME} is removed" in done.out
    assert list(state.iterdir()) == []
    again = edgepack_runtime("tune", *options(release, state), "--reset")
    assert (again.status, again.out.strip()) == (0, "nothing was kept")


def test_bad_input_is_refused(
    release: Release, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = edgepack_runtime("tune", *options(release, state / "missing"))
    refused(missing, 9, "state/missing", "it is missing")
    refused(edgepack_runtime("tune", "--release", tmp_path), 7, "is not a release")
    assert edgepack_runtime("tune", *options(release, state), "--seconds", "0").status == 2
    config = tmp_path / "runtime.toml"
    config.write_text("threads = 2\n")
    configured = edgepack_runtime("tune", *options(release, state), "--config", config)
    refused(configured, 13, "runtime.toml: threads")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if not Path("/var/lib/edgepack-runtime").exists():
        none = edgepack_runtime("tune", "--release", release.folder)
        refused(none, 9, "no state folder", "--state-folder")


def test_model_that_does_not_load_is_an_error(tiny_onnx: Path, tmp_path: Path, state: Path) -> None:
    broken = releases.release(tmp_path / "release", tiny_onnx)
    (broken.model_folder / "model.onnx").unlink()
    refused(edgepack_runtime("tune", *options(broken, state)), 11, "does not load")
    assert list(state.iterdir()) == []
