"""A model that sees answers about pictures."""

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from packager.errors import QuantizeError
from packager.jobs.check_vision import CheckVision
from packager.jobs.harness import run_job
from packager.jobs.job import JobRefusedError, Work
from tests.support import tiny_vision


def test_tokens_and_memory_of_a_picture(seeing_onnx: Path) -> None:
    # In a process of its own, whose most memory is not that of other tests.
    checked = run_job(CheckVision(), seeing_onnx, what="", error=QuantizeError, hint="")
    assert (checked.family, checked.image_tokens) == ("phi3v", tiny_vision.SQUARE_TOKENS)
    # The pixels alone are 17 crops.
    assert checked.memory_bytes > 17 * 3 * 336 * 336 * 4
    assert checked.seconds > 0


def test_model_that_does_not_look_at_pictures_is_refused(seeing_onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeing_onnx, tmp_path / "blind"))
    graph = onnx.load(str(folder / "vision.onnx"))
    for weight in graph.graph.initializer:
        if weight.name == "colours":
            weight.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, str(folder / "vision.onnx"))
    with pytest.raises(JobRefusedError, match="same answer for different pictures"):
        CheckVision().run(Work(folder))
