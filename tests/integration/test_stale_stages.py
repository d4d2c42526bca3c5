"""What is taken from the cache: of an older edgepack's work, what this one would make as well; of a
killed build's, all that it had done.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from packager import cache, profile
from packager.build import build
from packager.jobs import keys
from packager.request import BuildRequest
from packager.weights import gptq
from tests.support import tiny_adapter, tiny_encoder, tiny_gguf, tiny_seeing, tiny_speech
from tests.support.commands import environment
from tests.support.killed_builds import resumed
from tests.support.stages import SEEING, STAGES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of edgepack's own sources, to be edited."""
    folder = tmp_path_factory.mktemp("program")
    for name in ("packager", "device_runtime", "profiles", "locks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build: texts, bundle and cache."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def first(program: Path, tiny_hf: Path, folder: Path) -> str:
    """The digest of a bundle that is built with an empty cache."""
    digest, _ = built(program, tiny_hf, folder)
    return digest


def text(file: Path, factor: int) -> Path:
    """A text to measure on or to calibrate with."""
    file.write_text("".join(f"{factor} x {n} = {factor * n}. " for n in range(99)))
    return file


def command(model: Path, folder: Path, *, factor: int = 7) -> list[Any]:
    """The arguments of a build with calibration."""
    return [
        *("build", "--profile", "mobile", "--model", model, "-o", folder / "model.epk"),
        *("--recipe", "int4-gptq", "--allow-quality-loss"),
        *("--eval-text", text(folder / "eval.txt", factor)),
        *("--calibration-text", text(folder / "calibration.txt", 11)),
    ]


def built(program: Path, model: Path, folder: Path, *, factor: int = 7) -> tuple[str, str]:
    """Digest of a calibrated bundle, and what building it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "packager", *command(model, folder, factor=factor), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**environment(folder / "cache"), "PYTHONPATH": os.fspath(program)},
        cwd=program,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["digest"], done.stderr


@pytest.mark.slow
def test_killed_build_does_nothing_twice(tiny_hf: Path, folder: Path, first: str) -> None:
    """A sample; `make soak` kills builds in every stage."""
    for kind in ("gptq", "onnx", "measured"):
        shutil.rmtree(folder / "cache" / kind)
    moments = [("Calibrate", 1), ("BuildOnnx", 1)]
    assert resumed(command(tiny_hf, folder), folder / "cache", moments) == first


@pytest.mark.slow
def test_another_solver_gives_another_model(
    program: Path, tiny_hf: Path, folder: Path, first: str
) -> None:
    again, said = built(program, tiny_hf, folder)
    assert again == first
    assert "onnx: taken from the cache" in said
    _, said = built(program, tiny_hf, folder, factor=8)
    # What is measured on does not change what is built.
    assert "gptq: taken from the cache" in said
    assert "onnx: taken from the cache" in said
    solver = program / Path(gptq.__file__).relative_to(ROOT)
    source = solver.read_text()
    assert "SWEEPS = 2" in source
    solver.write_text(source.replace("SWEEPS = 2", "SWEEPS = 0"))
    other, said = built(program, tiny_hf, folder)
    assert other != first
    # What does not depend on the solver stays.
    assert "reference: taken from the cache" in said


@pytest.fixture
def code(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The modules in the keys of each kind of stage that a build has asked for."""
    make_stage = cache.stage
    code: dict[str, set[str]] = {}

    def noted(kind: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        if "code" in inputs:
            assert code.setdefault(kind, set(inputs["code"])) == set(inputs["code"])
        return make_stage(kind, inputs, make)

    monkeypatch.setattr(cache, "stage", noted)
    return code


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
@pytest.mark.filterwarnings("ignore:Deprecated re-export:DeprecationWarning")
def test_keys_of_a_build_have_the_code_of_its_jobs(
    tiny_hf: Path, tmp_path: Path, code: dict[str, set[str]]
) -> None:
    build(
        BuildRequest(
            profile=profile.load("mobile"),
            model=str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf")),
            adapter=tiny_adapter.make(tiny_hf, tmp_path / "polite"),
            embedding_model=str(tiny_encoder.make(tmp_path / "encoder")),
            speech_model=str(tiny_speech.make(tmp_path / "whisper")),
            output=tmp_path / "model.epk",
            recipe="int4-gptq-mixed",
            eval_text=text(tmp_path / "eval.txt", 7),
            calibration_text=text(tmp_path / "calibration.txt", 11),
            allow_quality_loss=True,
        )
    )
    # Checkpoints that are decoded become folders of the same stage.
    stages = {**STAGES, "hf": ["packager.jobs.convert_gguf"]}
    assert code == {
        stage: set(keys.sources(modules)[0])
        for stage, modules in stages.items()
        if stage not in SEEING
    }


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_keys_of_a_model_that_sees_have_the_code_of_its_jobs(
    tmp_path: Path, code: dict[str, set[str]]
) -> None:
    build(
        BuildRequest(
            profile=profile.load("mobile"),
            model=str(tiny_seeing.make_mistral3(tmp_path / "hf")),
            output=tmp_path / "model.epk",
            recipe="fp32",
            eval_text=text(tmp_path / "eval.txt", 7),
        )
    )
    stages = {stage: set(keys.sources(modules)[0]) for stage, modules in SEEING.items()}
    assert {stage: code[stage] for stage in SEEING} == stages
