"""The stages of long work: how long each is expected to take, how long it took, what is left."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

NEGLIGIBLE = 0.05
"""Part of the expected time below which a stage was taken from the cache: it tells nothing of this
machine's pace."""
TRUSTED = 0.1
"""Part of the whole expected time that counts as seen at the expected pace: what the first short
stage took says little of stages of another kind."""
EARLY, LATE = 0.1, 0.95
"""Parts of a stage: below the first, progress does not tell yet how long it takes; the second is
not exceeded before the end, since the head comes after the layers."""


class Stages:
    """Names of the stages of a build."""

    EVALUATION_TEXT = "evaluation text"
    REFERENCE = "reference model"
    CALIBRATION_TEXT = "calibration text"
    CALIBRATION = "calibration"
    SENSITIVITY = "sensitive layers"

    @staticmethod
    def building(recipe: str) -> str:
        """Name the stage that builds a recipe's graph."""
        return f"building {recipe}"

    @staticmethod
    def measuring(recipe: str) -> str:
        """Name the stage that measures a recipe's model."""
        return f"measuring {recipe}"


@dataclass(kw_only=True)
class Stage:
    """A stage.

    Attributes:
        expected: forecast, seconds.
        seen: time that it has taken, without the stages inside it, seconds.
        part: part that is done, from 0 to 1.
    """

    expected: float
    seen: float = 0.0
    part: float = 0.0


class Schedule:
    """The stages of some work; those inside another one stop its clock.

    Attributes:
        stages: stages by name, in the order in which they are expected.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stages: dict[str, Stage] = {}
        self._clock = clock
        self._running: list[Stage] = []
        self._since = clock()
        # The line on a terminal is drawn in a thread of its own.
        self._lock = threading.Lock()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Add stages with their forecasts, seconds."""
        self.stages |= {name: Stage(expected=expected) for name, expected in seconds.items()}

    def skip_rest(self) -> None:
        """Remove the stages that have not begun: they will not be needed."""
        self._tick()
        self.stages = {name: stage for name, stage in self.stages.items() if stage.seen}

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Run the clock of a stage, which need not be expected, while a block runs; yield it."""
        self._tick()
        stage = self.stages.setdefault(name, Stage(expected=0.0))
        stage.part = 0.0
        self._running.append(stage)
        try:
            yield stage
            stage.part = 1.0
        finally:
            self._tick()
            self._running.pop()

    def advance(self, part: float) -> None:
        """Note which part of the innermost stage is done."""
        if self._running:
            self._tick()
            self._running[-1].part = min(part, LATE)

    def left(self) -> float:
        """Estimate the time that all stages together still take, seconds."""
        self._tick()
        stages = list(self.stages.values())
        done = [stage for stage in stages if stage.part == 1]
        telling = [stage for stage in done if stage.seen > NEGLIGIBLE * stage.expected > 0]
        trusted = TRUSTED * sum(stage.expected for stage in stages)
        expected = trusted + sum(stage.expected for stage in telling)
        pace = (trusted + sum(stage.seen for stage in telling)) / expected if expected else 1.0
        return sum(_left(stage, pace) for stage in stages if stage.part < 1)

    def part(self) -> float:
        """Estimate which part of the whole time has passed, from 0 to 1."""
        left = self.left()
        seen = sum(stage.seen for stage in list(self.stages.values()))
        return seen / (seen + left) if seen else 0.0

    def _tick(self) -> None:
        with self._lock:
            now = self._clock()
            if self._running:
                self._running[-1].seen += now - self._since
            self._since = now


def _left(stage: Stage, pace: float) -> float:
    if stage.part > EARLY:
        return stage.seen * (1 - stage.part) / stage.part
    return max(stage.expected * pace - stage.seen, 0.0)
