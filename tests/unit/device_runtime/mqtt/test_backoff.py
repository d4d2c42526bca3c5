"""Waits between connections."""

import pytest

from device_runtime.mqtt.backoff import Backoff


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)


def test_waits_double_up_to_half_a_minute() -> None:
    waits = Backoff()
    assert [waits.next_s(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_after_a_success_the_first_wait_is_the_next() -> None:
    waits = Backoff()
    for _ in range(5):
        waits.next_s(0)
    assert waits.next_s(5) == 30
    assert [waits.next_s(61), waits.next_s(0)] == [1, 2]


def test_two_devices_of_one_id_leave_each_other_alone_for_minutes() -> None:
    waits = Backoff()
    waits.next_s(0)
    waits.notice_conflict()
    assert [waits.next_s(20) for _ in range(6)] == [30, 60, 120, 240, 480, 600]
    waits.notice_conflict()
    assert waits.next_s(300) == 600
    # The other one is gone.
    assert waits.next_s(601) == 1
    assert not waits.conflict
