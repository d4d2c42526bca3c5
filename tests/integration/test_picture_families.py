"""Each family of models that see, as a build makes it in fp32, against its reference."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import seeing, tiny_phi3v, tiny_seeing
from tests.support.picture_jobs import PictureJobs


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        tiny_phi3v.make_hf,
        tiny_seeing.make_gemma3,
        tiny_seeing.make_lfm2_vl,
        tiny_seeing.make_mistral3,
    ],
)
def test_fp32_is_its_own_reference(make: Callable[[Path], Path], tmp_path: Path) -> None:
    hf = make(tmp_path / "hf")
    (tmp_path / "pictures").mkdir()
    config = json.loads((hf / "config.json").read_text())
    jobs = PictureJobs(
        folder=tmp_path / "pictures",
        model=seeing.build(hf, tmp_path / "built"),
        text=tmp_path / "built" / "text",
        image_token=config.get("image_token_index", config.get("image_token_id")),
        both_ways=config["model_type"] == "gemma3",
        count=3,
    )
    jobs.prepare()
    result = jobs.measure(jobs.model)
    assert max(result.means.kl) < 1e-5
    assert min(result.means.top1) == 1
    assert result.answers == result.reference_answers
