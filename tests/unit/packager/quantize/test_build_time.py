"""The forecast of the time that a build takes."""

import dataclasses
from pathlib import Path

import pytest

from packager.machine import Pace, pace
from packager.models import shape
from packager.models.shape import Shape
from packager.models.source import ModelSource, resolve
from packager.quantize import build_time
from packager.recipes.recipes import LADDER, RECIPES
from packager.schedule import Stages
from tests.support import shapes

PACE = Pace(products_s=180e9, bytes_s=20e9)


def stages(
    source: ModelSource,
    of: Shape,
    monkeypatch: pytest.MonkeyPatch,
    *names: str,
    eval_text: Path | None = None,
    pace: Pace = PACE,
) -> dict[str, float]:
    sized = dataclasses.replace(source, parameters=of.parameters)
    monkeypatch.setattr(shape, "shape", lambda _: of)
    recipes = [RECIPES[name] for name in names or LADDER]
    return build_time.stages(sized, recipes, pace, eval_text=eval_text, calibration_text=None)


@pytest.fixture
def source(tiny_hf: Path) -> ModelSource:
    return resolve(str(tiny_hf))


def test_only_what_a_recipe_needs_is_expected(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = shapes.of(shapes.SMALL)
    plain = stages(source, of, monkeypatch, "int4-rtn", eval_text=tmp_path)
    assert list(plain) == [Stages.REFERENCE, "building int4-rtn", "measuring int4-rtn"]
    assert list(stages(source, of, monkeypatch, "int4-gptq")) == [
        Stages.EVALUATION_TEXT,
        Stages.REFERENCE,
        Stages.CALIBRATION_TEXT,
        Stages.CALIBRATION,
        "building int4-gptq",
        "measuring int4-gptq",
    ]
    assert Stages.SENSITIVITY in stages(source, of, monkeypatch, "int4-gptq-mixed")


def test_time_grows_no_faster_than_the_number_of_weights(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, middle, large = (
        sum(stages(source, of, monkeypatch).values()) / of.parameters
        for of in map(shapes.of, (shapes.SMALL, shapes.MIDDLE, shapes.LARGE))
    )
    assert small > middle
    assert small > large


def test_slower_machine_takes_longer(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Pace(products_s=PACE.products_s / 2, bytes_s=PACE.bytes_s / 2)
    fast, slow = (
        stages(source, shapes.of(shapes.LARGE), monkeypatch, pace=of) for of in (PACE, half)
    )
    assert 1.8 < sum(slow.values()) / sum(fast.values()) < 2


def test_announced(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {"reference model": 20.0, "building int4-rtn": 100.0, "measuring int4-rtn": 60.0}
    build_time.announce(expected, [RECIPES["int4-rtn"]])
    build_time.announce(
        {**expected, "building int8": 3900.0}, [RECIPES["int4-rtn"], RECIPES["int8"]]
    )
    first, second = capsys.readouterr().err.splitlines()
    assert first == "takes about 3 min (less if cached)"
    assert second == (
        "takes about 3 min if the first recipe, int4-rtn, keeps the quality limits, "
        "up to 1 h 8 min if all 2 are tried (less if cached)"
    )


def test_pace_of_this_machine() -> None:
    assert pace().products_s > 1e8
    assert pace().bytes_s > 1e8
