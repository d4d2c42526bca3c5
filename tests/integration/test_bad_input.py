"""Each kind of bad input: a clear error, a hint, an exit code of its class, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from packager import machine
from tests.support import graphs
from tests.support.bundles import draft
from tests.support.commands import Outcome, edgepack, environment, refused
from tests.support.disks import small_disk
from tests.support.serving import eventually


def left_behind(*folders: Path) -> list[str]:
    """Half-made things: files aside in the output folder, hidden stages in the cache."""
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix == ".epk" or (path.name.startswith(".") and path.suffix != ".lock")
        # A package of a kit has a hidden file.
        if "site-packages" not in path.parts
    ]


def build(
    model: Path | str,
    tmp_path: Path,
    profile: Path | str = "mobile",
    *,
    output: Path | None = None,
    cache: Path | None = None,
) -> Outcome:
    return edgepack(
        *("build", "--profile", profile, "--model", model),
        *("-o", output or tmp_path / "out.epk"),
        cache=cache or tmp_path / "cache",
    )


def started_build(
    model: Path, output: Path, cache: Path, profile: str = "mobile"
) -> subprocess.Popen[str]:
    """A build in the foreground of its own, whose messages can be read as they come."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "packager", "build", "--profile", profile),
            *("--model", str(model), "-o", str(output)),
        ],
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def messages_until(process: subprocess.Popen[str], words: str) -> str:
    """What a process writes to its stderr, up to a line with these words or to the end."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            break
    return seen


def runs_job(process: subprocess.Popen[str], module: str) -> bool:
    """Whether a build is at a job of a module."""
    with suppress(psutil.NoSuchProcess):  # also of a child that has just ended
        children = psutil.Process(process.pid).children()
        return any(module in child.cmdline() for child in children)
    return False


def test_unknown_profile_suggests_the_nearest(tmp_path: Path) -> None:
    refused(build("x", tmp_path, "rasberry-pi"), 3, "rasberry-pi", "raspberry-pi")


def test_profile_with_three_mistakes_names_all_three(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'extends = "mobile"\ncontext_lenght = 2048\nthreads = "two"\nmemory_budget_mb = -1\n'
    )
    outcome = build("x", tmp_path, mine)
    refused(outcome, 3, "context_lenght", "context_length", "threads", "memory_budget_mb")
    assert left_behind(tmp_path) == []


def test_missing_model(tmp_path: Path) -> None:
    refused(build(tmp_path / "missing", tmp_path), 4, "missing")
    refused(build("smollm2-135", tmp_path), 4, "smollm2-135m")


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("no model")
    refused(build(tmp_path / "folder", tmp_path), 4, "notes.txt", "config.json")


def test_unsupported_architecture(tmp_path: Path, tiny_hf: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for path in tiny_hf.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.update(architectures=["BertForMaskedLM"], model_type="bert")
    (folder / "config.json").write_text(json.dumps(config))
    refused(build(folder, tmp_path), 4, "BertForMaskedLM", "LlamaForCausalLM")
    assert left_behind(tmp_path) == []


def test_weights_cut_in_half(tmp_path: Path, tiny_hf: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for path in tiny_hf.iterdir():
        data = path.read_bytes()
        half = path.suffix == ".safetensors"
        (folder / path.name).write_bytes(data[: len(data) // 2] if half else data)
    outcome = build(folder, tmp_path)
    assert outcome.status in (4, 5)
    refused(outcome, outcome.status)
    assert left_behind(tmp_path) == []


def test_onnx_model_that_computes_nothing(tmp_path: Path, tiny_onnx: Path) -> None:
    spoilt = graphs.filled(tiny_onnx, tmp_path / "onnx", 0.0)
    refused(build(spoilt, tmp_path), 5, "its outputs (logits) are all the same")
    assert left_behind(tmp_path) == []


@pytest.mark.requires("root")
def test_disk_full(tmp_path: Path, tiny_hf: Path) -> None:
    with small_disk(tmp_path / "small", "200k") as small:
        into_cache = build(tiny_hf, tmp_path, cache=small / "cache")
        refused(into_cache, 9, "of disk space", "available")
        assert left_behind(small, tmp_path) == []
        (small / "filler").write_bytes(bytes(machine.disk_free(small) - 40_000))
        output = build(tiny_hf, tmp_path, output=small / "o.epk")
        refused(output, 9, "o.epk", "GB available", "-o FILE.epk")
        # Nothing was made in vain.
        assert "Writing text" not in output.err
        assert left_behind(small) == []


@pytest.mark.requires("root")
def test_disk_too_small_for_an_onnx_model(tmp_path: Path, tiny_onnx: Path) -> None:
    with small_disk(tmp_path / "small", "400k") as small:
        refused(build(tiny_onnx, tmp_path, output=small / "o.epk"), 9, "o.epk", "GB available")
        refused(build(tiny_onnx, tmp_path, cache=small / "cache"), 9, "of disk space")


def test_output_that_cannot_be_written(tmp_path: Path, tiny_hf: Path) -> None:
    (tmp_path / "file").touch()
    outcome = build(tiny_hf, tmp_path, output=tmp_path / "file/out.epk")
    refused(outcome, 9, f"cannot write {tmp_path / 'file/out.epk'}", "Not a directory")
    assert "Running the reference model" not in outcome.err


@pytest.mark.requires("root")
def test_disk_that_fills_up(tmp_path: Path, tiny_hf: Path) -> None:
    """There was enough space when the build began, and something else took it."""
    with small_disk(tmp_path / "small", "40m") as small:
        with started_build(tiny_hf, tmp_path / "o.epk", small / "cache") as process:
            said = messages_until(process, "Building int4-rtn")
            # The space has been checked once the builder runs.
            eventually(lambda: runs_job(process, "packager.jobs.build_onnx"))
            # What a part of the build gives back when it fails is taken, too: whichever part
            # writes next, it must end.
            with (small / "filler").open("ab", buffering=0) as filler:
                while process.poll() is None:
                    try:
                        filler.write(bytes(1 << 20))
                    except OSError:
                        time.sleep(0.01)
            assert process.stderr is not None
            said += process.stderr.read()
        refused(Outcome(process.returncode, "", said), 9, "EDGEPACK_CACHE")
        # The packager itself writes as well as its jobs, and says it in the system's words.
        assert "disk is full" in said or "No space left on device" in said
        assert left_behind(small, tmp_path) == []


@pytest.mark.parametrize(
    ("profile", "moment"),
    [
        ("mobile", "Building int4-rtn"),
        ("mobile", "Checking the graph"),
        # Beside that, the reference model works; or has, and the runtime is waited for.
        pytest.param(f"cpu-{os.uname().machine}", "Freezing the runtime", marks=pytest.mark.slow),
    ],
)
def test_interrupted(tmp_path: Path, tiny_hf: Path, profile: str, moment: str) -> None:
    """Ctrl-C at a terminal reaches the foreground's process group."""
    process = started_build(tiny_hf, tmp_path / "out.epk", tmp_path / "cache", profile)
    seen = messages_until(process, moment)
    children = eventually(psutil.Process(process.pid).children)
    time.sleep(0.5)  # until the packager waits for what it has started
    os.killpg(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert "Traceback" not in rest
    assert left_behind(tmp_path) == []
    assert not any(child.is_running() for child in children)


def test_bundle_that_is_damaged(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "b.epk")
    data = path.read_bytes()
    for name, damaged in {
        "cut": data[:-600],
        "flipped": data[:-1300] + bytes([data[-1300] ^ 1]) + data[-1299:],
        "foreign": b"hello" * 1000,
    }.items():
        bad = tmp_path / f"{name}.epk"
        bad.write_bytes(damaged)
        refused(edgepack("verify", bad), 7)


def test_run_of_what_cannot_run_here(tmp_path: Path) -> None:
    model_only = draft(machine=None).write(tmp_path / "m.epk")
    refused(edgepack("run", model_only, cache=tmp_path / "cache"), 1, "only a model")
    foreign = draft(machine="riscv64").write(tmp_path / "f.epk")
    refused(edgepack("run", foreign, cache=tmp_path / "cache"), 1, "riscv64")


def test_kit_that_is_not_available(tmp_path: Path, tiny_hf: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "mobile"\nname = "mine"\nkit = "linux-riscv64-cpu"\n')
    refused(build(tiny_hf, tmp_path, str(mine)), 6, "linux-riscv64-cpu", "--model-only")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "b.epk")
    assert edgepack("run", path, "--max-tokens", "3").status == 2
    assert edgepack("run", path, "--generate", "x", "--port", "1").status == 2
    assert edgepack("build").status == 2
    wrong_version = edgepack("build", "--profile", "mobile", "--bundle-version", "new")
    assert wrong_version.status == 2
    assert "1.2.0" in wrong_version.err
