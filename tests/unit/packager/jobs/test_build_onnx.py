"""The job that builds an ONNX model."""

from pathlib import Path

import pytest

from packager.jobs.build_onnx import Weights
from packager.jobs.job import Work
from packager.quantize import builder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_layer_is_reported_when_it_is_read_and_when_it_is_quantized(
    tiny_hf: Path, tmp_path: Path
) -> None:
    weights = Weights(
        algorithm="nearest",
        body_bits=4,
        head_bits=4,
        embedding_bits=4,
        block_size=32,
        symmetric=True,
        accuracy_level=4,
    )
    job = builder.job(
        tiny_hf,
        precision="int4",
        execution_provider="cpu",
        options={},
        trust_remote_code=False,
        weights=weights,
    )
    (tmp_path / "model").mkdir()
    steps: list[int] = []
    job.run(Work(tmp_path / "model", steps.append))
    assert steps == [1] * 2 * 2
