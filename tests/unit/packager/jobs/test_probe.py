"""The probe of a model: cut where another processor's kernels could choose another token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.jobs import generation, probe

END = 0
WORDS = 40


class Script:
    """Implements tokenizer and generator: what follows each prompt is written down.

    An answer is a list of tokens, each with its distance from the second most likely one.
    """

    def __init__(self, answers: dict[str, list[tuple[int, float]]], monkeypatch: Any) -> None:
        self.answers = {prompt: answers.get(prompt, [(END, 9.0)]) for prompt in probe.PROMPTS}
        self.tried: list[str] = []
        monkeypatch.setattr(generation, "generator", lambda *_: self)

    def encode(self, prompt: str, *, special: bool) -> list[int]:
        assert special
        self.tried.append(prompt)
        self._rest = self.answers[prompt] + [(5, 9.0)] * probe.LENGTH
        return [1, 2, 3]

    def append_tokens(self, tokens: list[int]) -> None:
        assert tokens == [1, 2, 3]

    def get_logits(self) -> Any:
        token, margin = self._rest[0]
        logits = np.zeros((1, 1, WORDS), np.float16)
        logits[0, 0, token] = margin
        return logits

    def generate_next_token(self) -> None:
        self._rest = self._rest[1:]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {"context_length": 64, "eos_token_id": END}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": config}))
    return tmp_path


def test_it_is_cut_before_the_first_uncertain_token(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = probe.PROMPTS[:2]
    close = probe.MARGIN - 0.1
    script = Script(
        {first: [(7, 9.0), (8, close), (9, 9.0)], second: [(7, 9.0), (8, 2.0), (9, close)]},
        monkeypatch,
    )
    assert probe.find(None, script, model) == probe.Continuation(prompt=second, tokens=(7, 8))


def test_it_has_at_most_sixteen_tokens_and_the_search_ends_there(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script({probe.PROMPTS[0]: [(6, 9.0)]}, monkeypatch)
    result = probe.find(None, script, model)
    assert result is not None
    assert result.tokens == (6, *[5] * 15)
    assert script.tried == [probe.PROMPTS[0]]


def test_answer_that_goes_on_is_better_than_a_longer_one_that_ends(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = probe.PROMPTS[:2]
    script = Script(
        {first: [(7, 9.0)] * 8 + [(END, 9.0)], second: [(7, 9.0), (8, 0.5)]}, monkeypatch
    )
    assert probe.find(None, script, model) == probe.Continuation(prompt=second, tokens=(7,))


def test_model_that_is_never_sure_has_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script({prompt: [(7, 0.5)] for prompt in probe.PROMPTS}, monkeypatch)
    assert probe.find(None, script, model) is None


def test_prompt_must_fit_into_the_context(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "genai_config.json").write_text(json.dumps({"model": {"context_length": 34}}))
    script = Script({probe.PROMPTS[0]: [(6, 9.0)]}, monkeypatch)
    assert probe.find(None, script, model) is None
