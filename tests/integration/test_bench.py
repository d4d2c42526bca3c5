"""`edgepack-runtime bench` and `edgepack bench`, as a user runs them."""

import json
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from device_runtime.bench.results import Benchmark
from device_runtime.bundle.release import Release
from tests.support import releases
from tests.support.commands import edgepack, edgepack_runtime, environment, refused


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("bench") / "release"
    return releases.release(folder, tiny_onnx, context_length=256)


def parsed(text: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(text)
    assert set(result) == set(Benchmark.__struct_fields__)
    return result


def test_json_has_all_figures(release: Release, tmp_path: Path) -> None:
    picture = tmp_path / "speed.svg"
    done = edgepack_runtime(
        *("bench", "--release", release.folder, "--rounds", "1", "--json"),
        *("--profile", "--picture", picture),
    )
    assert done.status == 0, done.err
    result = parsed(done.out)
    assert [case["tokens"] for case in result["prefill"]] == [32, 128]
    assert [case["context"] for case in result["decode"]] == [0]
    assert [case["tokens"] for case in result["skipped"]] == [512, 2048]
    assert result["decode"][0]["tokens_per_s"]["median"] > 0
    assert result["prefill"][1]["cpu_s_per_token"] is not None
    assert 0 < result["decode"][0]["share_of_limit"] < 2
    assert result["memory"]["peak_bytes"] >= result["memory"]["loaded_bytes"] > 1 << 20
    assert result["starts"]["warm_s"]["median"] > 0
    assert "MatMul" in {operator["name"] for operator in result["profile"]["decode"]}
    assert sum(operator["share"] for operator in result["profile"]["prefill"]) == pytest.approx(1)
    assert "round 1 of 1" in done.err
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [picture]


def test_table_is_for_people(release: Release) -> None:
    done = edgepack_runtime("bench", "--release", release.folder, "--rounds", "1")
    assert done.status == 0, done.err
    for words in ("prefill", "128 tokens", "context 0", "start to first token, warm", "GB/s"):
        assert words in done.out
    assert "None" not in done.out


def test_bad_input_is_refused(release: Release, tmp_path: Path) -> None:
    refused(edgepack_runtime("bench", "--release", tmp_path), 7, "is not a release")
    missing = tmp_path / "missing" / "speed.svg"
    outcome = edgepack_runtime("bench", "--release", release.folder, "--picture", missing)
    refused(outcome, 9, "speed.svg", "does not exist")
    assert "loading" not in outcome.err
    none = edgepack_runtime("bench", "--release", release.folder, "--rounds", "0")
    assert none.status == 2


def test_model_that_does_not_load_is_an_error(tiny_onnx: Path, tmp_path: Path) -> None:
    broken = releases.release(tmp_path / "release", tiny_onnx)
    (broken.model_folder / "model.onnx").unlink()
    refused(edgepack_runtime("bench", "--release", broken.folder), 11, "does not load")


def test_ctrl_c_ends_it_and_its_process(release: Release) -> None:
    command = [sys.executable, "-m", "device_runtime", "bench", "--release", str(release.folder)]
    with subprocess.Popen(
        [*command, "--rounds", "1000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        while "round 1 " not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def test_bundle_for_another_machine_is_refused(tmp_path: Path) -> None:
    from tests.support import bundles

    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    bundle = bundles.draft(other).write(tmp_path / "other.epk")
    refused(edgepack("bench", bundle), 1, f"is for {other}")


@pytest.mark.slow
def test_frozen_program_of_a_bundle_measures_itself(host_bundle: Path) -> None:
    done = edgepack("bench", host_bundle, "--rounds", "1", "--json", "--profile")
    assert done.status == 0, done.err
    result = parsed(done.out)
    assert [case["tokens"] for case in result["prefill"]] == [32, 128, 512, 2048]
    assert [case["context"] for case in result["decode"]] == [0, 512, 2048]
    assert result["skipped"] == []
    assert result["bytes_from"] == "build"
    assert all(case["cpu_s_per_token"] > 0 for case in result["decode"])
    first, *_, last = (case["bytes_per_token"] for case in result["decode"])
    assert first < last
    assert "MatMulNBits" in {operator["name"] for operator in result["profile"]["decode"]}
    assert result["sizes"]["runtime_stored"] < result["sizes"]["stored"]
