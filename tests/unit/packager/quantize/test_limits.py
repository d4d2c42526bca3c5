"""Limits of a profile against what was measured: by size, worst tokens, tasks, and what excuses."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.bundle.quantization import Quality, TaskCounts
from packager import profile
from packager.errors import QualityError
from packager.jobs.check import Checked
from packager.models.source import ModelSource
from packager.profile import Limits
from packager.quantize import candidate, gate
from packager.quantize.candidate import Candidate
from packager.quantize.gate import Verdict
from packager.quantize.subject import Subject
from packager.recipes.recipes import RECIPES, Recipe

SOURCE = ModelSource(
    kind="hf",
    name="any",
    origin="folder: any",
    path=Path("any"),
    digest="0",
    architecture="LlamaForCausalLM",
    license="",
    parameters=135_000_000,
)
SMALL, MIDDLE, LARGE = 135_000_000, 1_235_814_400, 3_821_079_552


def _tasks(agreed: int, compared: int = 20) -> TaskCounts:
    return TaskCounts(
        tasks=24, compared=compared, agreed=agreed, reference_right=0, quantized_right=0
    )


def _candidate(kl: float, **more: Any) -> Candidate:
    values = {"kl_tail": 1.0, "kl_max": 2.0, "tasks": _tasks(19), **more}
    quality = Quality(
        kl=kl,
        kl_interval=(kl, kl),
        top1=0.9,
        top1_interval=(0.9, 0.9),
        perplexity=9.0,
        reference_perplexity=9.0,
        tokens=3060,
        **values,
    )
    return Candidate(
        recipe="int4-gptq",
        precision="int4",
        folder=Path("model"),
        digest="",
        graph=Checked(
            execution_provider="cpu",
            operators={},
            quantized=(),
            large_floats=(),
            answer=None,
            probe=None,
        ),
        measured=None,
        quality=quality,
        answers=(),
        layers=[],
        model_bytes=100_000_000,
        memory_bytes=1,
        context_length=2048,
    )


def _judged(candidate: Candidate, parameters: int = SMALL, **limits: Any) -> Verdict:
    device = profile.load("cpu-x86_64")
    if limits:
        device = msgspec.structs.replace(device, limits=Limits(**limits))
    return gate.judge(candidate, device, parameters)


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        (0, 0.1),
        (SMALL, 0.1),
        (399_999_999, 0.1),
        (400_000_000, 0.06),
        (MIDDLE, 0.04),
        (2_999_999_999, 0.04),
        (3_000_000_000, 0.03),
        (70_000_000_000, 0.03),
    ],
)
def test_shipped_limit_is_that_of_the_size(parameters: int, limit: float) -> None:
    for name in profile.names():
        assert profile.load(name).limits.kl(parameters) in (limit, None)
    assert profile.load("raspberry-pi").limits.kl(parameters) == limit


def test_same_loss_passes_for_a_small_model_and_not_for_a_large_one() -> None:
    assert not _judged(_candidate(0.05)).exceeded
    assert _judged(_candidate(0.051), MIDDLE).exceeded == ("KL 0.051 > 0.04 for 1.2 B parameters",)
    assert _judged(_candidate(0.051), LARGE).exceeded == ("KL 0.051 > 0.03 for 3.8 B parameters",)


def test_single_limit_is_for_all_sizes() -> None:
    for parameters in (SMALL, LARGE):
        assert _judged(_candidate(0.3), parameters, max_kl=0.2).exceeded == ("KL 0.300 > 0.2",)
        assert not _judged(_candidate(0.2), parameters, max_kl=0.2).exceeded


def test_tasks_that_agree_excuse_a_little_and_are_named() -> None:
    verdict = _judged(_candidate(0.12, tasks=_tasks(20)))
    assert not verdict.exceeded
    assert verdict.excused == ("KL 0.120 > 0.1 for 135.0 M parameters, but all 20 tasks agree",)
    assert _judged(_candidate(0.12, tasks=_tasks(19))).exceeded
    assert _judged(_candidate(0.126, tasks=_tasks(20))).exceeded
    # Too few to tell.
    assert _judged(_candidate(0.12, tasks=_tasks(9, 9))).exceeded
    assert _judged(_candidate(0.12, tasks=None)).exceeded
    # Nothing else is excused.
    assert _judged(_candidate(0.12, tasks=_tasks(20)), max_kl_tail=0.9).exceeded


def test_good_mean_does_not_pass_other_answers() -> None:
    assert _judged(_candidate(0.01, tasks=_tasks(13))).exceeded == ("tasks 13/20 < 0.7",)
    assert not _judged(_candidate(0.01, tasks=_tasks(14))).exceeded
    # A model that answers few of them is judged by its probabilities.
    assert not _judged(_candidate(0.01, tasks=_tasks(0, 9))).exceeded
    assert not _judged(_candidate(0.01, tasks=_tasks(0, 0))).exceeded


def test_worst_tokens_count_if_the_profile_says_so() -> None:
    assert not _judged(_candidate(0.01, kl_tail=9.0)).exceeded
    verdict = _judged(_candidate(0.01, kl_tail=3.4), max_kl_tail=3)
    assert verdict.exceeded == ("KL of 99.9 % of the tokens 3.40 > 3",)
    assert not _judged(_candidate(0.01, kl_tail=3.0), max_kl_tail=3).exceeded


def test_line_of_the_table_has_all_figures() -> None:
    candidate = _candidate(0.12, kl_tail=1.234, tasks=_tasks(20))
    line = gate.describe(candidate, _judged(candidate))
    assert "KL 0.120 (99.9 %: 1.23)" in line
    assert "tasks 20/20" in line
    assert "within the limits (KL 0.120 > 0.1 for 135.0 M parameters, but" in line


def _choose(
    monkeypatch: pytest.MonkeyPatch, on_pictures: Mapping[str, tuple[str, ...]], **more: bool
) -> gate.Choice:
    """Choose between two recipes that are within the limits on text."""
    ladder = [RECIPES["int4-gptq"], RECIPES["int8"]]

    def make(_subject: object, recipe: Recipe, _most: float | None) -> Candidate:
        return dataclasses.replace(_candidate(0.01), recipe=recipe.name)

    monkeypatch.setattr(candidate, "make", make)
    device = profile.load("cpu-x86_64")
    subject = Subject(
        source=SOURCE,
        profile=device,
        output=Path("out.epk"),
        text=None,
        calibration=Path,
        trust_remote_code=False,
    )
    return gate.choose(
        subject,
        ladder,
        on_pictures=lambda model: on_pictures.get(model.recipe, ()),
        **{"allow_quality_loss": False, **more},
    )


def test_recipe_that_fails_on_pictures_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = _choose(monkeypatch, {"int4-gptq": ("KL 0.200 > 0.1",)})
    assert choice.chosen.recipe == "int8"
    assert [verdict.exceeded for _, verdict in choice.tried] == [
        ("on pictures KL 0.200 > 0.1",),
        (),
    ]


def test_no_recipe_that_keeps_the_limits_on_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = dict.fromkeys(("int4-gptq", "int8"), ("top-1 0.500 < 0.8",))
    with pytest.raises(QualityError, match=r"int8 .*exceeds on pictures top-1 0\.500") as refused:
        _choose(monkeypatch, bad)
    assert "--text-only" in refused.value.hint
    assert _choose(monkeypatch, bad, allow_quality_loss=True).quality_loss_allowed
