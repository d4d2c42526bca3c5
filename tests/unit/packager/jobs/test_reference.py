"""The reference model's texts and answers: the same however often writing them is interrupted."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.jobs import prefill as prefill_module
from packager.jobs.job import Work
from packager.jobs.reference import Questions, Refer, Reference, Write
from packager.weights.layerwise import LayerwiseModel

PROMPTS = ("Name a colour.", "Count.", "Why?", "Go on.", "Say it again.")


class _StopError(Exception):
    pass


def _stop_after(tokens: int) -> Callable[[int], None]:
    left = tokens

    def advance(amount: int) -> None:
        nonlocal left
        left -= amount
        if left <= 0:
            raise _StopError

    return advance


def _interrupted(
    job: Write | Refer, tokens: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path, list[str]]:
    """Run a job whole, and, in another folder, stopped after some tokens and started again.

    Returns:
        Both folders, and the work that was left at the second start.
    """
    whole, parts = folder / "whole", folder / "parts"
    whole.mkdir()
    parts.mkdir()
    job.run(Work(whole))
    with pytest.raises(_StopError):
        job.run(Work(parts, _stop_after(tokens)))
    left: list[str] = []

    def note(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def noted(self: Any, what: Any, *arguments: Any, **options: Any) -> Any:
            left.append(f"{name} {what}")
            return original(self, what, *arguments, **options)

        monkeypatch.setattr(owner, name, noted)

    note(LayerwiseModel, "layer")
    note(Reference, "_generate")
    job.run(Work(parts))
    return whole, parts, left


def test_writing_goes_on_with_the_answers_it_was_at(
    tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Write(
        source=tiny_hf,
        floats=True,
        trust_remote_code=False,
        prompts=PROMPTS,
        at_once=2,
        seed=3,
        windows=8,
        window=32,
    )
    whole, parts, left = _interrupted(job, 70, tmp_path, monkeypatch)
    assert (parts / "windows.npy").read_bytes() == (whole / "windows.npy").read_bytes()
    assert 0 < len(left) < len(list(whole.glob("batch-*")))


@pytest.mark.parametrize(
    ("tokens", "answers", "layers"),
    [(11, 2, ["layer 0", "layer 1"]), (86, 0, ["layer 1"])],
    ids=["answers", "layers"],
)
def test_reading_goes_on_with_the_layer_or_the_answers_it_was_at(
    tiny_hf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    answers: int,
    layers: list[str],
) -> None:
    np.save(tmp_path / "windows.npy", np.arange(128).reshape(4, 32))
    job = Refer(
        source=tiny_hf,
        floats=True,
        trust_remote_code=False,
        windows=tmp_path / "windows.npy",
        questions=(
            Questions(prompts=PROMPTS[:2], max_tokens=5),
            Questions(prompts=PROMPTS[2:], max_tokens=4),
        ),
        at_once=2,
    )
    whole, parts, left = _interrupted(job, tokens, tmp_path, monkeypatch)
    for name in ("logprobs.npy", "top1.npy", "answers.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert left[answers:] == layers
    assert len(left) == len(layers) + answers


def test_prompts_of_any_length_get_the_answers_that_they_get_alone(
    tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ("Hi", "Say it again. " * 9, "Why?", "Say it again. " * 10)
    asked = Questions(prompts=prompts, max_tokens=6)
    passes: list[int] = []
    original = prefill_module.padded

    def noted(rows: Sequence[Sequence[int]]) -> Any:
        passes.append(len(rows))
        return original(rows)

    monkeypatch.setattr(prefill_module, "padded", noted)
    np.save(tmp_path / "windows.npy", np.arange(64).reshape(2, 32))
    answers = []
    for at_once in (1, 4):
        job = Refer(
            source=tiny_hf,
            floats=True,
            trust_remote_code=False,
            windows=tmp_path / "windows.npy",
            questions=(asked,),
            at_once=at_once,
        )
        folder = tmp_path / str(at_once)
        folder.mkdir()
        job.run(Work(folder))
        answers.append((folder / "answers.json").read_text())
    assert passes == [1, 1, 1, 1, 2, 2]
    assert answers[0] == answers[1]
