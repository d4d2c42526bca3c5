"""What is left of long work, from its forecast and from what was seen of it."""

import pytest

from packager.schedule import Schedule


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(clock: Clock) -> Schedule:
    schedule = Schedule(clock)
    schedule.expect({"text": 10.0, "build": 60.0, "measure": 30.0})
    return schedule


def test_before_it_starts_the_forecast_is_left(schedule: Schedule, clock: Clock) -> None:
    clock.now += 5
    assert schedule.left() == 100
    assert schedule.part() == 0


def test_a_slower_machine_is_noticed(schedule: Schedule, clock: Clock) -> None:
    with schedule.stage("text"):
        clock.now += 20
    assert schedule.left() == pytest.approx(1.5 * 90), "a short stage says little of the others"
    with schedule.stage("build"):
        clock.now += 120
    assert schedule.left() == pytest.approx(150 / 80 * 30)
    assert schedule.part() == pytest.approx(140 / (140 + 56.25))


def test_what_was_in_the_cache_tells_nothing_of_the_pace(schedule: Schedule, clock: Clock) -> None:
    with schedule.stage("text"):
        clock.now += 0.1
    assert schedule.left() == 90


def test_progress_inside_a_stage_counts_more_than_its_forecast(
    schedule: Schedule, clock: Clock
) -> None:
    with schedule.stage("text"):
        clock.now += 20
        assert schedule.left() == pytest.approx(90), "late already: nothing is left of it"
        schedule.advance(0.25)
        assert schedule.left() == pytest.approx(60 + 90)


def test_a_stage_is_not_done_with_its_progress(schedule: Schedule, clock: Clock) -> None:
    with schedule.stage("build"):
        clock.now += 19
        schedule.advance(1.0)
        assert schedule.left() == pytest.approx(10 + 1 + 30)
        clock.now += 40
    assert schedule.left() == pytest.approx((10 + 59) / (10 + 60) * 40)


def test_a_stage_inside_another_has_its_own_time(schedule: Schedule, clock: Clock) -> None:
    with schedule.stage("build"):
        clock.now += 30
        with schedule.stage("text"):
            clock.now += 10
        clock.now += 30
    assert schedule.stages["build"].seen == pytest.approx(60)
    assert schedule.stages["text"].seen == pytest.approx(10)
    assert schedule.left() == pytest.approx(30)


def test_stages_that_are_not_needed_go(schedule: Schedule, clock: Clock) -> None:
    with schedule.stage("text"):
        clock.now += 10
    schedule.skip_rest()
    assert list(schedule.stages) == ["text"]
    assert schedule.left() == 0
    assert schedule.part() == 1


def test_a_stage_that_fails_is_not_done(schedule: Schedule, clock: Clock) -> None:
    with pytest.raises(ValueError, match="broken"), schedule.stage("measure"):
        clock.now += 10
        raise ValueError("broken")
    assert schedule.left() == pytest.approx(10 + 60 + 20)
