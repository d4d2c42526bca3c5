"""Rounds of a comparison: their order, how they are kept, and what follows from them.

A round is a dict of figures by contestant. All contestants of a part are loaded before its first
round and wait while another one has its turn; who is first changes from round to round. Rounds are
kept in a file as they are measured, so a part can be interrupted and continued. Those of other
programs or versions are forgotten.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from packager.aside import written_aside

Round = dict[str, dict[str, float]]
MeasureRound = Callable[[int], Round]

T = TypeVar("T")


def in_turn(contestants: Sequence[T], number: int) -> list[T]:
    """Return contestants in the order of a round: rotated, and every second time backwards."""
    start = number // 2 % len(contestants)
    order = [*contestants[start:], *contestants[:start]]
    return order[::-1] if number % 2 else order


class Rounds:
    """The rounds of all models and parts, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._all: dict[str, dict[str, Any]] = {}
        if file.exists():
            self._all = json.loads(file.read_text(encoding="utf-8"))

    def of(self, model: str, part: str) -> list[Round]:
        """Return the rounds of a part."""
        rounds: list[Round] = self._all.get(model, {}).get(part, {}).get("rounds", [])
        return rounds

    def about(self, model: str, part: str) -> Mapping[str, Any]:
        """Return what the rounds of a part were measured with; empty without rounds."""
        about: Mapping[str, Any] = self._all.get(model, {}).get(part, {}).get("about", {})
        return about

    def keep(self, model: str, part: str, about: Mapping[str, Any]) -> int:
        """Forget rounds that were measured with something else; return how many there are."""
        if self.about(model, part) != about:
            self._all.setdefault(model, {})[part] = {"about": about, "rounds": []}
        return len(self.of(model, part))

    def add(self, model: str, part: str, measured: Round) -> None:
        """Add a round, and write the file."""
        self.of(model, part).append(measured)
        with written_aside(self._file, "Free some space.") as file:
            file.write(json.dumps(self._all, indent=1).encode())


def values(rounds: Sequence[Round], contestant: str, figure: str) -> list[float]:
    """Return a figure of a contestant, round by round; empty if it was not measured."""
    return [
        measured[contestant][figure]
        for measured in rounds
        if figure in measured.get(contestant, {})
    ]


def median(rounds: Sequence[Round], contestant: str, figure: str) -> float | None:
    """Return the median of a figure of a contestant; None if it was not measured."""
    measured = values(rounds, contestant, figure)
    return statistics.median(measured) if measured else None


def ratios(rounds: Sequence[Round], first: str, second: str, figure: str) -> list[float]:
    """Return the ratio of a figure of two contestants, round by round."""
    return [
        measured[first][figure] / measured[second][figure]
        for measured in rounds
        if figure in measured.get(first, {}) and figure in measured.get(second, {})
    ]
