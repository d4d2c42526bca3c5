"""Each family of models that see, as a build makes it in fp32, against its reference."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from packager.vision.exported import ExportedVision
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
        tiny_seeing.make_qwen2_5_vl,
    ],
)
def test_fp32_is_its_own_reference(make: Callable[[Path], Path], tmp_path: Path) -> None:
    hf = make(tmp_path / "hf")
    (tmp_path / "pictures").mkdir()
    built = tmp_path / "built"
    model = seeing.build(hf, built)
    jobs = PictureJobs(
        folder=tmp_path / "pictures",
        model=model,
        text=built / "text",
        exported=msgspec.json.decode((built / "exported.json").read_bytes(), type=ExportedVision),
        count=3,
    )
    jobs.prepare()
    result = jobs.measure(model)
    assert max(result.means.kl) < 1e-5
    assert min(result.means.top1) == 1
    assert result.answers == result.reference_answers
