"""Rounds of the bench: their order, what is kept of them, their medians and ratios."""

from pathlib import Path

import pytest

from scripts.bench.rounds import Rounds, in_turn, median, ratios

ABOUT = {"versions": ["a 1"]}
ROUNDS = [
    {"ours": {"speed": 10.0}, "theirs": {"speed": 5.0}},
    {"ours": {"speed": 30.0}, "theirs": {"speed": 10.0}},
    {"ours": {"speed": 20.0}, "theirs": {"speed": 20.0}},
]


def test_everyone_is_first_and_last_once() -> None:
    orders = [in_turn("abc", number) for number in range(6)]
    assert sorted(order[0] for order in orders) == list("aabbcc")
    assert sorted(order[-1] for order in orders) == list("aabbcc")
    assert all(sorted(order) == list("abc") for order in orders)


def test_rounds_go_on_where_another_call_ended(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "rounds"
    first = Rounds(folder)
    assert first.keep("model", "part", ABOUT) == 0
    first.add("model", "part", ROUNDS[0])
    second = Rounds(folder)
    assert second.keep("model", "part", ABOUT) == 1
    second.add("model", "part", ROUNDS[1])
    assert Rounds(folder).of("model", "part") == ROUNDS[:2]


def test_rounds_of_other_versions_are_forgotten_and_those_of_other_parts_stay(
    tmp_path: Path,
) -> None:
    rounds = Rounds(tmp_path)
    for part in ("old", "other"):
        rounds.keep("model", part, ABOUT)
        rounds.add("model", part, ROUNDS[0])
    newer = {"versions": ["a 2"]}
    assert rounds.keep("model", "old", newer) == 0
    assert rounds.about("model", "old") == newer
    assert rounds.of("model", "other") == ROUNDS[:1]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios(ROUNDS, "ours", "theirs", "speed") == [2.0, 3.0, 1.0]


@pytest.mark.parametrize("figure", ["speed", "memory"])
def test_what_was_not_measured_has_no_median(figure: str) -> None:
    assert median(ROUNDS, "ours", figure) == (20.0 if figure == "speed" else None)
    assert median(ROUNDS, "nobody", figure) is None
    assert ratios(ROUNDS, "ours", "nobody", figure) == []
