"""Rounds of the runtimes themselves, with contestants that are real processes."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bench import engines
from scripts.bench.models import Form, Model, Plan
from scripts.bench.protocol import Contestant
from tests.support.bench_peer import LAST

NOTHING: Any = SimpleNamespace()
"""In place of llama.cpp and a source, which are not needed."""


def model() -> Model:
    forms = [
        Form(runtime=runtime, kind="a kind", path=Path("model"), size=1)
        for runtime in ("edgepack", "llama.cpp", "transformers")
    ]
    plan = Plan(recipes=(), types=(), first=(10, 4), second=(40, 8))
    made = Model(name="a model", random=False, plan=plan, source=NOTHING, forms=tuple(forms))
    # The tokens of its text.
    made.__dict__["tokens"] = [100] * 100 + [LAST] + [100] * 1000
    return made


def test_all_contestants_have_figures_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "tests.support.bench_peer"]
    monkeypatch.setattr(engines, "contestant", lambda form, _: Contestant(form.name, command))
    with engines.engines(model(), NOTHING) as measure:
        rounds = [measure(number) for number in range(2)]
    for measured in rounds:
        assert set(measured) == {"edgepack a kind", "llama.cpp a kind", "transformers a kind"}
        for figures in measured.values():
            assert figures["prefill_first"] == figures["prefill_second"] == pytest.approx(10)
            assert figures["decode_first"] == 4
            assert figures["others_busy"] < 1
    # An answer that ended at once has no speed.
    assert "decode_second" not in rounds[1]["edgepack a kind"]
    assert rounds[0]["edgepack a kind"]["decode_second"] == 8
