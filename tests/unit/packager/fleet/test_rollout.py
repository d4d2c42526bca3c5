"""A rollout's decisions: which devices are next, when it is stopped, what is rolled back."""

from fractions import Fraction

import msgspec
import pytest

from packager.fleet.devices import Device
from packager.fleet.rollout import (
    ROLLBACK,
    UPDATE,
    Limits,
    Record,
    Rollout,
    Status,
    Step,
    ailment,
    outcomes,
)

OLD, NEW = "0" * 64, "1" * 64
NAMES = [f"d{number}" for number in range(100)]
RESULT = {"release": NEW, "version": "2"}


def limits(canary: int = 5, abort_over: int = 2, at_once: int | None = None) -> Limits:
    return Limits(
        canary=Fraction(canary, 100), abort_over=Fraction(abort_over, 100), at_once=at_once
    )


def rollout(*stages: int) -> Rollout:
    """A rollout with stages of so many devices, `0-0`, `0-1`, ...; the last is in progress."""
    begun = Rollout(reference="oci://a/b@sha256:c", broker="mqtt://b:1883", select={})
    for number, size in enumerate(stages):
        begun.begin({f"{number}-{place}": OLD for place in range(size)})
    begun.judged = max(len(stages) - 1, 0)
    return begun


def end(begun: Rollout, status: Status, *names: str, reason: str = "") -> None:
    for name in names or begun.records:
        begun.records[name].update.take(status, reason, RESULT)


@pytest.mark.parametrize(
    ("devices", "canary", "first"),
    [(0, 5, 0), (1, 5, 1), (1, 100, 1), (20, 5, 1), (21, 5, 2), (99, 100, 99), (99, 0, 1)],
)
def test_the_canary_is_a_share_and_at_least_one(devices: int, canary: int, first: int) -> None:
    stage = rollout().next_stage(NAMES[:devices], limits(canary=canary))
    assert len(stage) == first


def test_stages_double_until_none_is_left() -> None:
    begun, sizes = rollout(), []
    while stage := begun.next_stage(NAMES, limits()):
        begun.begin(dict.fromkeys(stage, OLD))
        sizes.append(len(stage))
    assert sizes == [5, 10, 20, 40, 25]
    assert sorted(begun.records) == sorted(NAMES)


def test_a_stage_has_no_more_than_at_once() -> None:
    begun, sizes = rollout(), []
    while stage := begun.next_stage(NAMES, limits(canary=50, at_once=30)):
        begun.begin(dict.fromkeys(stage, OLD))
        sizes.append(len(stage))
    assert sizes == [30, 30, 30, 10]


def test_the_order_is_that_of_the_bundle_and_favours_no_names() -> None:
    stage = rollout().next_stage(NAMES, limits(canary=50))
    again = rollout().next_stage(reversed(NAMES), limits(canary=50))
    assert stage == again
    other = Rollout(reference="oci://a/b@sha256:d", broker="", select={})
    assert stage != other.next_stage(NAMES, limits(canary=50))
    assert 15 < len(set(stage) & set(NAMES[:50])) < 35


def test_devices_that_come_later_get_a_stage_of_their_own() -> None:
    begun = rollout()
    begun.begin(dict.fromkeys(begun.next_stage(NAMES[:10], limits(canary=100)), OLD))
    assert begun.next_stage(NAMES[:10], limits()) == []
    assert sorted(begun.next_stage(NAMES[:12], limits())) == NAMES[10:12]


@pytest.mark.parametrize(
    ("bad", "sent", "share", "stopped"),
    [
        (0, 1, 0, False),
        (1, 1, 2, True),
        (1, 1, 100, False),  # that is not more than all
        (1, 50, 2, False),  # exactly the limit
        (1, 49, 2, True),
        (2, 50, 2, True),
        (0, 0, 0, False),
    ],
)
def test_it_stops_over_the_limit_and_not_at_it(
    bad: int, sent: int, share: int, stopped: bool
) -> None:
    begun = rollout(sent)
    end(begun, "failed", *begun.current()[:bad], reason="refused") if bad else None
    assert begun.judge(limits(abort_over=share)) is stopped
    assert bool(begun.stopped) is stopped


def test_shares_are_exact() -> None:
    # As floating-point numbers, 0.29 % of 10,000 is less than 29.
    begun = rollout(10_000)
    end(begun, "failed", *begun.current()[:29])
    exact = Limits(canary=Fraction(1), abort_over=Fraction("0.29") / 100)
    assert not begun.judge(exact)


def test_devices_of_earlier_stages_count() -> None:
    begun = rollout(50, 50)
    end(begun, "failed", "0-0", "1-0", reason="refused")
    assert not begun.judge(limits())
    end(begun, "failed", "1-1", reason="rolled back")
    assert begun.judge(limits())
    assert begun.stopped.startswith("3 of 100 devices bad, more than 2 %: 0-0 (refused), ")
    assert "1-1 (rolled back)" in begun.stopped


def test_some_bad_devices_are_named_and_the_rest_is_counted() -> None:
    begun = rollout(9)
    end(begun, "failed")
    assert begun.judge(limits())
    assert begun.stopped.count("(no reason given)") == 5
    assert begun.stopped.endswith(", 4 more")


def test_a_verdict_does_not_wait_for_outcomes_that_cannot_change_it() -> None:
    begun = rollout(100)
    end(begun, "failed", "0-0", "0-1", "0-2")
    assert len(begun.pending(begun.current(), UPDATE)) == 97
    assert begun.judge(limits())


def test_only_what_has_not_begun_is_withdrawn() -> None:
    begun = rollout(3)
    end(begun, "executing", "0-1")
    end(begun, "successful", "0-2")
    assert begun.withdraw() == ["0-0"]
    assert begun.pending(begun.records, UPDATE) == ["0-1"]
    # It was faster than the withdrawal.
    end(begun, "executing", "0-0")
    assert begun.pending(begun.records, UPDATE) == ["0-0", "0-1"]


def test_a_device_without_an_outcome_is_bad_until_it_tells_one() -> None:
    begun = rollout(3)
    end(begun, "executing", "0-1")
    end(begun, "successful", "0-2")
    assert begun.give_up(begun.current(), "late") == ["0-0"]
    assert begun.bad == {"0-0": "late", "0-1": "late"}
    end(begun, "executing", "0-1")  # told again, after an outage of the broker
    assert begun.bad.keys() == {"0-0", "0-1"}
    end(begun, "successful", "0-1")
    assert begun.bad.keys() == {"0-0"}


def test_the_first_outcome_counts() -> None:
    step = Step()
    assert step.take("successful", "", RESULT)
    assert not step.take("failed", "a command with this id was begun before", {})
    assert not step.take("executing", "", {})
    assert (step.status, step.release, step.version) == ("successful", NEW, "2")


def test_what_had_the_release_before_is_not_rolled_back() -> None:
    record = Record(before=NEW)
    record.update.take("successful", "", RESULT)
    assert not record.revertible
    record.before = OLD
    assert record.revertible
    record.rollback = Step()
    assert not record.revertible


def test_unwell_devices_are_bad_and_rolled_back() -> None:
    begun = rollout(1)
    end(begun, "successful")
    begun.records["0-0"].unwell = "offline after the update"
    assert begun.bad == {"0-0": "offline after the update"}
    assert begun.records["0-0"].revertible


def test_ailments() -> None:
    device = Device(device="a", state="online", health="degraded")
    assert ailment(device) == ""
    device.health, device.problems = "failed", ("model: it ended",)
    assert ailment(device) == "health failed: model: it ended"
    device.state = "offline"
    assert ailment(device) == ailment(None) == "offline after the update"


def test_outcomes_have_every_device() -> None:
    begun = rollout(2, 1)
    end(begun, "successful")
    begun.records["0-1"].unwell = "offline after the update"
    begun.records["0-1"].rollback = Step(status="no answer", reason="it waits")
    begun.records["1-0"].rollback = Step(status="successful", release=OLD, version="1")
    rows = {row["device"]: row for row in outcomes(begun, {"x": "the device is offline", "y": ""})}
    assert list(rows) == ["0-0", "0-1", "1-0", "x", "y"]
    assert (rows["0-0"]["stage"], rows["0-0"]["status"]) == (1, "successful")
    assert rows["0-1"]["status"] == "unwell"
    assert rows["0-1"]["reason"] == "offline after the update; it waits"
    assert (rows["1-0"]["stage"], rows["1-0"]["release"]) == (2, OLD)
    assert (rows["x"]["status"], rows["x"]["reason"]) == ("not sent", "the device is offline")
    assert rows["y"]["reason"] == "its turn has not come"


def test_the_file_has_all_of_it() -> None:
    begun = rollout(2, 1)
    end(begun, "executing", "0-1")
    begun.records["0-0"].rollback = Step()
    assert msgspec.json.decode(msgspec.json.encode(begun), type=Rollout) == begun
    assert begun.pending(begun.records, ROLLBACK) == ["0-0"]
