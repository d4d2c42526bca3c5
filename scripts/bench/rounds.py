"""Rounds of a comparison: their order, how they are kept, and what follows from them.

A round is a dict of figures by contestant. All contestants of a part are loaded before its first
round and wait while another one has its turn; who is first changes from round to round. Rounds are
kept in a file as they are measured, so a part can be interrupted and continued. Those of other
programs or versions are forgotten.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from packager.aside import written_aside

Round = dict[str, dict[str, float]]
MeasureRound = Callable[[int], Round]

T = TypeVar("T")


def in_turn(contestants: Sequence[T], number: int) -> list[T]:
    """Return contestants in the order of a round: rotated, and every second time backwards."""
    start = number // 2 % len(contestants)
    order = [*contestants[start:], *contestants[:start]]
    return order[::-1] if number % 2 else order


class Measured(msgspec.Struct, kw_only=True):
    """The rounds of a part.

    Attributes:
        about: machine, versions and forms that they were measured with.
        rounds: the rounds.
    """

    about: dict[str, Any] = {}
    rounds: list[Round] = []


class Rounds:
    """The rounds of all models and parts, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, model: str, part: str) -> list[Round]:
        """Return the rounds of a part."""
        return self._read(model, part).rounds

    def about(self, model: str, part: str) -> Mapping[str, Any]:
        """Return what the rounds of a part were measured with; empty without rounds."""
        return self._read(model, part).about

    def keep(self, model: str, part: str, about: dict[str, Any]) -> int:
        """Forget rounds that were measured with something else; return how many there are."""
        if self.about(model, part) != about:
            self._write(model, part, Measured(about=about))
        return len(self.of(model, part))

    def add(self, model: str, part: str, measured: Round) -> None:
        """Add a round."""
        before = self._read(model, part)
        self._write(model, part, Measured(about=before.about, rounds=[*before.rounds, measured]))

    def _read(self, model: str, part: str) -> Measured:
        file = self._file(model, part)
        return (
            msgspec.json.decode(file.read_bytes(), type=Measured) if file.exists() else Measured()
        )

    def _write(self, model: str, part: str, measured: Measured) -> None:
        with written_aside(self._file(model, part), "Free some space.") as file:
            file.write(msgspec.json.encode(measured))

    def _file(self, model: str, part: str) -> Path:
        return self._folder / f"{model}.{part}.json"


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
