"""Texts that come with edgepack are those that the default model would write."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from packager import cache
from packager.errors import EvaluationError
from packager.evaluation import texts, written
from packager.evaluation.texts import CALIBRATION, EVALUATION, WindowSet
from packager.jobs.reference import SAMPLING, Write
from packager.models import source as sources
from packager.models.catalog import CATALOG, DEFAULT_MODEL
from packager.models.shape import WINDOW
from packager.models.source import ModelSource
from tests.support import tiny_gguf

SETS = [CALIBRATION, EVALUATION]
PACKAGED = CATALOG[DEFAULT_MODEL].packaged
assert PACKAGED is not None
DIGEST = PACKAGED.sha256

pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_hf: Path, tmp_path: Path) -> ModelSource:
    """A small model that passes for the default one."""
    small = sources.resolve(str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf")))
    return dataclasses.replace(small, name=DEFAULT_MODEL, digest=DIGEST)


def _job(model: ModelSource, of: WindowSet) -> Write:
    return texts.write_job(model, of)


@pytest.mark.parametrize("of", SETS, ids=["calibration", "evaluation"])
def test_the_default_model_need_not_write(of: WindowSet, model: ModelSource) -> None:
    text = written.find(DIGEST, _job(model, of))
    assert text is not None, "run `python -m scripts.write_texts`"
    windows = np.load(text.unpacked())
    assert windows.dtype == np.int64
    assert windows.shape == (of.windows, WINDOW)
    assert len(np.unique(windows)) > 500


def test_neither_text_is_in_the_other(model: ModelSource) -> None:
    calibration, evaluation = (written.find(DIGEST, _job(model, of)) for of in SETS)
    assert calibration is not None
    assert evaluation is not None
    texts.check_disjoint(np.load(calibration.unpacked()), np.load(evaluation.unpacked()))


def test_the_files_are_those_of_the_index() -> None:
    files = {path.name for path in written.FOLDER.iterdir()}
    assert files == {written.INDEX, *(text.file for text in written.texts())}
    for text in written.texts():
        assert cache.file_digest(written.FOLDER / text.file) == text.sha256
    assert sum(path.stat().st_size for path in written.FOLDER.iterdir()) < 40_000


def test_another_model_writes_its_own(model: ModelSource) -> None:
    assert written.find("0" * 64, _job(model, EVALUATION)) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompts", ("Hello",)), ("seed", 7), ("windows", 13), ("window", 128), ("at_once", 1)],
)
def test_a_text_of_other_settings_is_written(field: str, value: object, model: ModelSource) -> None:
    job = msgspec.structs.replace(_job(model, EVALUATION), **{field: value})
    assert written.find(DIGEST, job) is None


def test_other_sampling_makes_another_text(
    model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written, "SAMPLING", {**SAMPLING, "temperature": 0.8})
    assert written.find(DIGEST, _job(model, EVALUATION)) is None


def test_a_damaged_text_is_not_used(
    model: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = written.find(DIGEST, _job(model, EVALUATION))
    assert text is not None
    (tmp_path / text.file).write_bytes(b"damaged")
    monkeypatch.setattr(written, "FOLDER", tmp_path)
    with pytest.raises(EvaluationError, match="is damaged"):
        text.unpacked()
