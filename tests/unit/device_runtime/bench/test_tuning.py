"""The search for faster threads: what is tried, and what wins."""

import asyncio
from collections.abc import Callable

import pytest

from device_runtime.bench import tuning
from device_runtime.bench.tuning import TURNS, Search, Speed, candidates
from device_runtime.errors import EngineError, ResourceError
from device_runtime.worker.tuning import Setting

pytestmark = pytest.mark.anyio

DEFAULT, ONE, THREE = (Setting(threads=number) for number in (2, 1, 3))

Speeds = dict[Setting, Callable[[int], Speed]]


def steady(prefill: float, decode: float) -> Callable[[int], Speed]:
    return lambda _: Speed(prefill, decode)


class Machine:
    """A machine with given speeds, by setting and number of the process; it notes what ran."""

    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self.ran: list[Setting] = []

    async def measure(self, setting: Setting) -> Speed:
        self.ran.append(setting)
        return self._speeds[setting](len(self.ran))


async def search(speeds: Speeds) -> tuple[Search, Machine]:
    machine = Machine(speeds)
    settings = [setting for setting in speeds if setting != DEFAULT]
    searched = Search(DEFAULT, settings, machine.measure, lambda _: None)
    await searched.run()
    assert searched.finished
    return searched, machine


async def test_faster_setting_wins_in_all_turns() -> None:
    searched, machine = await search({DEFAULT: steady(500, 100), ONE: steady(600, 120)})
    assert searched.chosen == ONE
    default, one = searched.tried()
    assert (default.setting, default.turns, default.gain) == (DEFAULT, 0, None)
    assert one.turns == TURNS
    assert one.gain == pytest.approx(1.2)
    assert one.decode is not None
    assert one.decode.runs == TURNS + 1
    # Who is first changes from turn to turn: what comes second meets a warmer machine.
    assert machine.ran[2:6] == [ONE, DEFAULT, DEFAULT, ONE]


async def test_most_hopeful_is_tried_first_and_the_next_if_it_loses() -> None:
    def only_at_first(number: int) -> Speed:
        return Speed(1000, 200) if number <= 3 else Speed(100, 20)

    speeds = {DEFAULT: steady(500, 100), ONE: steady(550, 110), THREE: only_at_first}
    searched, machine = await search(speeds)
    assert searched.chosen == ONE
    assert machine.ran[:5] == [DEFAULT, ONE, THREE, THREE, DEFAULT]
    assert {row.setting: row.turns for row in searched.tried()} == {DEFAULT: 0, ONE: 5, THREE: 1}


@pytest.mark.parametrize(
    "other",
    [
        steady(500, 100),
        steady(505, 101),
        steady(300, 200),
        steady(1000, 90),
        lambda number: Speed(600, 120) if number < 9 else Speed(499, 99),
    ],
    ids=["as fast", "hardly faster", "slower prefill", "slower decode", "one lost turn"],
)
async def test_default_stays_unless_another_is_clearly_faster_in_all(
    other: Callable[[int], Speed],
) -> None:
    searched, _ = await search({DEFAULT: steady(500, 100), ONE: other})
    assert searched.chosen is None


async def test_noise_does_not_win() -> None:
    """A machine on which everything varies by a quarter, and nothing is faster."""
    for seed in range(50):

        def noisy(number: int, seed: int = seed) -> Speed:
            # Low-discrepancy numbers: the same in each run, and spread like chance.
            part = ((number + seed * 7) * 0.6180339887) % 1
            return Speed(500 * (0.75 + part / 2), 100 * (0.75 + part / 2))

        searched, _ = await search({DEFAULT: noisy, ONE: noisy})
        assert searched.chosen is None, seed


async def test_slower_settings_get_one_look() -> None:
    _, machine = await search({DEFAULT: steady(500, 100), ONE: steady(250, 50)})
    assert machine.ran == [DEFAULT, ONE]


async def test_setting_that_fails_is_out_and_the_default_must_not_fail() -> None:
    def fail(_: int) -> Speed:
        raise ResourceError("no memory")

    searched, _ = await search({DEFAULT: steady(500, 100), ONE: fail, THREE: steady(600, 120)})
    assert searched.chosen == THREE
    assert [row.failure for row in searched.tried()] == ["", "no memory", ""]
    with pytest.raises(ResourceError, match="no memory"):
        await search({DEFAULT: fail, ONE: steady(500, 100)})


async def test_setting_that_fails_in_its_turns_is_out() -> None:
    def late(number: int) -> Speed:
        if number > 4:
            raise EngineError("the inference process was killed by SIGKILL")
        return Speed(600, 120)

    searched, _ = await search({DEFAULT: steady(500, 100), ONE: late})
    assert searched.chosen is None
    assert searched.tried()[1].failure == "the inference process was killed by SIGKILL"


async def test_interrupted_search_has_chosen_nothing() -> None:
    async def measure(setting: Setting) -> Speed:
        await asyncio.sleep(0 if setting == DEFAULT else 60)
        return Speed(500, 100)

    searched = Search(DEFAULT, [ONE], measure, lambda _: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await searched.run()
    assert (searched.chosen, searched.finished) == (None, False)
    assert [row.setting for row in searched.tried()] == [DEFAULT]


@pytest.mark.parametrize(
    ("kinds", "cores", "default", "expected"),
    [
        ([(0, 1)], 2, 2, ["1 thread"]),
        ([(0,)], 1, 1, []),
        ([(0, 1, 2, 3)], 4, 4, ["3 threads", "2 threads"]),
        ([(0, 1, 2, 3)], 4, 2, ["4 threads", "3 threads"]),
        (
            [(4, 5, 6, 7), (0, 1, 2, 3)],
            8,
            8,
            ["4 threads on CPU 4,5,6,7", "7 threads", "6 threads", "4 threads"],
        ),
        ([(1,), (0,)], 1, 1, ["1 thread on CPU 1"]),
    ],
    ids=["two", "one", "four", "release says two", "big and little", "quota of one"],
)
def test_candidates_are_fast_cores_and_fewer_threads(
    monkeypatch: pytest.MonkeyPatch,
    kinds: list[tuple[int, ...]],
    cores: int,
    default: int,
    expected: list[str],
) -> None:
    monkeypatch.setattr(tuning, "kinds_of_cores", lambda: kinds)
    monkeypatch.setattr(tuning, "cores", lambda: cores)
    monkeypatch.setattr(tuning, "count_cores", len)
    assert [str(setting) for setting in candidates(Setting(threads=default))] == expected
