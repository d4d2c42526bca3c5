"""docs/performance.md, from rounds."""

import datetime
from pathlib import Path

import pytest

from scripts.bench import page
from scripts.bench.rounds import Round, Rounds

ABOUT = {
    "cpu": "A processor",
    "cores": 2,
    "memory": "16.0 GB",
    "flags": ["avx2"],
    "system": "Linux 6",
    "versions": ["edgepack 1", "torch 2"],
    "llama.cpp": "AVX2",
    "random": False,
    "workloads": [[32, 64], [512, 32]],
    "forms": {
        "edgepack small": 90_000_000,
        "llama.cpp smaller": 80_000_000,
        "llama.cpp good": 100_000_000,
        "llama.cpp fast": 110_000_000,
        "llama.cpp better": 120_000_000,
    },
}
KL = {
    "edgepack small": 0.1,
    "llama.cpp smaller": 0.5,
    "llama.cpp good": 0.1,
    "llama.cpp fast": 0.3,
    "llama.cpp better": 0.05,
}
SPEEDS = {
    "edgepack small": 60.0,
    "llama.cpp smaller": 99.0,
    "llama.cpp good": 20.0,
    "llama.cpp fast": 40.0,
    "llama.cpp better": 80.0,
}


def engines(factor: float) -> Round:
    return {
        name: {"decode_first": speed * (factor if name.startswith("edgepack") else 1)}
        for name, speed in SPEEDS.items()
    }


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    rounds = Rounds(tmp_path)
    parts: dict[str, list[Round]] = {
        "engines": [engines(factor) for factor in (1.0, 0.9, 1.2)],
        "quality": [{name: {"kl": kl, "top1": 0.9} for name, kl in KL.items()}],
        "together": [
            {
                "edgepack": {"one": 50.0, "eight": 75.0},
                "llama-server": {"one": 50.0, "eight": 150.0},
            }
        ],
    }
    for part, measured in parts.items():
        rounds.keep("a model", part, ABOUT)
        for one in measured:
            rounds.add("a model", part, one)
    return rounds


def lines(rounds: Rounds) -> list[str]:
    return page.text(rounds, ["a model", "unmeasured"], datetime.date(2026, 1, 2)).splitlines()


def test_decoding_is_compared_with_the_fastest_file_that_is_neither_smaller_nor_better(
    rounds: Rounds,
) -> None:
    assert (
        "| a model: decode after 32 tokens, small | 60.0 tokens/s | "
        "40.0 tokens/s (llama.cpp fast) | 1.50 (1.35–1.80) | 3 |"
    ) in lines(rounds)


def test_random_weights_are_compared_by_size_alone() -> None:
    forms = ABOUT["forms"]
    assert isinstance(forms, dict)
    assert page.rivals(forms, {}, "edgepack small", random=True) == [
        "llama.cpp good",
        "llama.cpp fast",
        "llama.cpp better",
    ]


def test_eight_requests_are_compared_with_one_and_with_the_peer(rounds: Rounds) -> None:
    text = lines(rounds)
    assert any("eight requests at once | 75.0 tokens/s | 150 tokens/s" in line for line in text)
    assert any("edgepack, eight requests at once, to one alone" in line for line in text)
    assert any("| 1.50 (1.50–1.50) | 1 |" in line for line in text)


def test_machine_versions_and_all_forms_are_named_and_nothing_unmeasured(rounds: Rounds) -> None:
    text = "\n".join(lines(rounds))
    assert "2 cores of A processor (avx2), 16.0 GB of memory, Linux 6" in text
    assert "edgepack 1, torch 2; llama.cpp with AVX2. Written 2026-01-02." in text
    assert all(f"| {form} |" in text for form in KL)
    assert "| llama.cpp good | 100.0 | 0.10 | 0.90 |  | 20.0 |  |  |" in text
    assert "unmeasured" not in text


@pytest.mark.parametrize(
    ("values", "text"),
    [([], ""), ([2.0], "2.00 (2.00–2.00)"), ([3.0, 1.0, 1.5, 2.0], "1.75 (1.00–3.00)")],
)
def test_spread_has_median_least_and_most(values: list[float], text: str) -> None:
    assert page.spread(values) == text
