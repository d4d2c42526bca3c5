"""The time that is left of a build, as its log shows it."""

import pytest

from packager import console
from packager.schedule import Schedule


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_log_says_after_each_stage_how_much_is_left_and_at_the_end_what_was_seen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with console.scheduled(Schedule(clock)):
        console.expect(
            {"text": 60.0, "calibration": 600.0, "measuring": 300.0, "other recipes": 9000.0}
        )
        with console.stage("text"):
            clock.now += 0.5  # it is in the cache
        with console.stage("calibration"), console.progress("Calibrating", 4, "layers") as advance:
            clock.now += 900
            advance(4)
        with console.stage("measuring"):
            clock.now += 300
            console.skip_rest()
    assert capsys.readouterr().err.splitlines() == [
        "up to 3 h 4 min left",
        "calibration: took 15 min, forecast 10 min",
        "measuring: took 5 min, forecast 5 min",
    ]


def test_work_outside_of_a_schedule_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.scheduled(Schedule()):
        console.expect({"packing": 600.0})
        with console.scheduled(None), console.stage("packing"):
            console.expect({"more": 1.0})
            console.skip_rest()
    assert capsys.readouterr().err == ""
