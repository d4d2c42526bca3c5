"""Models that compute no numbers, or the same for all tokens, are refused wherever they run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from packager.jobs.check import Check
from packager.jobs.job import JobRefusedError, Work
from packager.jobs.measure import DecoderGraph, Measure
from packager.jobs.reference import Questions, Refer, Write
from tests.support import graphs

VALUES = [
    pytest.param(np.nan, "NaN or infinite", id="NaN"),
    pytest.param(3e38, "NaN or infinite", id="overflow"),
    pytest.param(0.0, "all the same", id="zero"),
]


@pytest.mark.parametrize(("value", "says"), VALUES)
def test_check_refuses(tiny_onnx: Path, tmp_path: Path, value: float, says: str) -> None:
    folder = graphs.filled(tiny_onnx, tmp_path / "onnx", value)
    with pytest.raises(JobRefusedError, match=says) as caught:
        Check(prompt="Hello", max_tokens=2).run(Work(folder))
    assert caught.value.hint


def test_check_looks_at_every_step(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = graphs.filled(tiny_onnx, tmp_path / "onnx", np.nan, graphs.POSITIONS, row=40)
    with pytest.raises(JobRefusedError, match="NaN or infinite"):
        Check(prompt="Hello", max_tokens=24).run(Work(folder))


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A reference folder of one short window, with no preference for any token."""
    folder = tmp_path / "reference"
    folder.mkdir()
    np.save(folder / "evaluation.npy", np.arange(8)[None])
    np.save(folder / "logprobs.npy", np.full((1, 7, 288), -np.log(288), np.float16))
    np.save(folder / "top1.npy", np.zeros((1, 7), np.int64))
    return folder


@pytest.mark.parametrize(("value", "says"), VALUES)
def test_measuring_refuses(
    tiny_onnx: Path, tmp_path: Path, reference: Path, value: float, says: str
) -> None:
    folder = graphs.filled(tiny_onnx, tmp_path / "onnx", value)
    with pytest.raises(JobRefusedError, match=says):
        Measure(model=folder, reference=reference).run(Work())


def test_infinite_divergence_is_refused(
    tiny_onnx: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.zeros((8, 288), np.float32)
    logits[:, 1], logits[:, 2] = 1, -np.inf
    monkeypatch.setattr(DecoderGraph, "logits", lambda *_: logits)
    with pytest.raises(JobRefusedError, match="rules out tokens"):
        Measure(model=tiny_onnx, reference=reference).run(Work())


@pytest.mark.parametrize(("value", "says"), VALUES)
@pytest.mark.parametrize("job", ["Refer", "Write"])
def test_reference_model_is_refused(
    tiny_hf: Path, tmp_path: Path, value: float, says: str, job: str
) -> None:
    folder = shutil.copytree(tiny_hf, tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = np.full(64, value, np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    common: dict[str, Any] = {"source": folder, "floats": True, "trust_remote_code": False}
    np.save(tmp_path / "windows.npy", np.arange(8)[None])
    jobs = {
        "Refer": Refer(
            **common,
            windows=tmp_path / "windows.npy",
            questions=(Questions(prompts=("Hi",), max_tokens=1),),
            at_once=1,
        ),
        "Write": Write(**common, prompts=("Hi",), at_once=1, seed=0, windows=1, window=32),
    }
    with pytest.raises(JobRefusedError, match=says):
        jobs[job].run(Work(tmp_path))
