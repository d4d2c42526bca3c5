"""A rollout with devices that answer at once, interrupted at each change of its file."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest

from packager.errors import FleetError, ResourceError
from packager.fleet import stages, watch
from packager.fleet.connection import Message
from packager.fleet.devices import ROOT, Fleet
from packager.fleet.rollout import Limits, Rollout
from packager.fleet.stages import Stages
from packager.fleet.store import Store, folder

COUNT = 20
REFERENCE = f"oci://registry.local/kitchen@sha256:{'a' * 64}"
RESULT = {"release": "b" * 64, "version": "2"}


class Broker:
    """A broker with devices that carry out commands at once; they refuse an id that they know.

    Args:
        refusing: names of devices whose updates fail.

    Attributes:
        outage_s: time for which there is no connection after the first command, seconds.
        asleep_s: time for which the machine of the command sleeps then, seconds.
        slow: commands begin, and never end.
    """

    def __init__(self, refusing: tuple[str, ...] = ()) -> None:
        self.retained: dict[str, bytes] = {}
        self.begun: Counter[str] = Counter()
        self.verbs: Counter[str] = Counter()
        self.offline: set[str] = set()
        self.outage_s = self.asleep_s = 0.0
        self.slow = False
        self._refusing = refusing
        self._waiting: list[Message] = []
        for number in range(COUNT):
            root = f"{ROOT}d{number}/"
            info = {"identity": {"release": "0" * 64}, "commands": ["ping", "update", "rollback"]}
            self.retained[f"{root}status"] = b'{"state": "online", "session": 1}'
            self.retained[f"{root}info"] = json.dumps(info).encode()

    def connect(self, sent: Callable[[], None]) -> None:
        """Begin a connection; `sent` is called after each message."""
        self._waiting = [(topic, content, True) for topic, content in self.retained.items()]
        self._sent = sent

    def publish(self, topic: str, content: bytes, *, retain: bool = False) -> None:
        assert retain
        self._take(topic, content)
        self._sent()

    def _take(self, topic: str, content: bytes) -> None:
        if not content:
            self.retained.pop(topic, None)
            return
        _, _, device, _, verb, _ = topic.split("/")
        if device in self.offline:
            self.retained[topic] = content
            return
        self.begun[topic] += 1
        self.verbs[verb] += 1
        state = {"status": "successful", "result": RESULT}
        if verb == "update" and device in self._refusing:
            state = {"status": "failed", "reason": "refused"}
        if self.slow:
            state = {"status": "executing"}
        self.retained[topic] = json.dumps(state).encode()
        self._waiting.append((topic, self.retained[topic], False))

    def flush(self) -> None:
        pass

    @property
    def connected(self) -> bool:
        return self.outage_s <= 0

    def waiting(self, seconds: float) -> Iterator[Message]:
        if self.begun and self.asleep_s:
            time.sleep(self.asleep_s)
            self.asleep_s = 0.0
        elif self.begun and self.outage_s > 0:
            time.sleep(seconds)
            self.outage_s -= seconds
        else:
            messages, self._waiting = self._waiting, []
            yield from messages


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stages, "TICK_S", 0.001)
    monkeypatch.setattr(stages, "SETTLE_S", 0.0)
    monkeypatch.setattr(watch, "QUIET_S", 0.002)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


class KilledError(Exception):
    """The program is killed."""


def go_on(broker: Broker, kind: str = "", moment: int = 0, *, abort_over: int = 2) -> Rollout:
    """Begin the rollout or go on with it, until it ends, or is killed.

    Args:
        broker: the broker.
        kind: `writes` of its file, or `sends` of messages.
        moment: number of those after which it is killed.
        abort_over: percentage of bad devices.
    """
    fresh = Rollout(reference=REFERENCE, broker="mqtt://b:1883", select={})
    store = Store(fresh)
    done: Counter[str] = Counter()

    def count(what: str) -> None:
        done[what] += 1
        if what == kind and done[what] == moment:
            raise KilledError

    def save(rollout: Rollout) -> None:
        store.save(rollout)
        count("writes")

    broker.connect(partial(count, "sends"))
    rollout = store.load() or fresh
    work = Stages(
        broker,  # type: ignore[arg-type]
        Fleet(),
        rollout,
        limits=Limits(canary=Fraction(1, 10), abort_over=Fraction(abort_over, 100)),
        soak_s=0.002,
        timeout_s=0.05,
        save=save,
        show=lambda _: None,
    )
    work.gather()
    work.run()
    return rollout


def first(count: int) -> tuple[str, ...]:
    """Names of the devices that come first."""
    rollout = Rollout(reference=REFERENCE, broker="", select={})
    limits = Limits(canary=Fraction(count, COUNT), abort_over=Fraction(0))
    return tuple(rollout.next_stage([f"d{number}" for number in range(COUNT)], limits))


@pytest.mark.parametrize("kind", ["writes", "sends"])
def test_a_rollout_that_is_killed_anywhere_goes_on_and_commands_nobody_twice(
    kind: str, tmp_path: Path
) -> None:
    for moment in range(1, 60):
        broker = Broker()
        try:
            go_on(broker, kind, moment)
        except KilledError:
            pass
        else:
            break
        rollout = go_on(broker)
        assert rollout.over
        assert rollout.count("successful") == COUNT
        assert broker.begun.total() == len(broker.begun) == COUNT
        assert not any("/cmd/" in topic for topic in broker.retained)
        for path in folder().iterdir():
            path.unlink()
    assert moment > 8, "it was hardly interrupted"


@pytest.mark.parametrize("kind", ["writes", "sends"])
def test_a_rollout_that_is_killed_while_it_is_stopped_is_stopped(kind: str) -> None:
    refusing = first(4)[3:]  # one of the second stage
    for moment in range(1, 60):
        broker = Broker(refusing)
        try:
            go_on(broker, kind, moment)
        except KilledError:
            pass
        else:
            break
        rollout = go_on(broker)
        assert rollout.stopped.startswith(f"1 of 6 devices bad, more than 2 %: {refusing[0]} (ref")
        assert broker.verbs == {"update": 6, "rollback": 5}
        assert len(broker.begun) == 11
        assert not any("/cmd/" in topic for topic in broker.retained)
        for path in folder().iterdir():
            path.unlink()
    assert moment > 6


def test_a_device_that_vanishes_is_bad_and_its_command_is_withdrawn() -> None:
    broker = Broker()
    broker.offline = {first(1)[0]}
    rollout = go_on(broker)
    assert rollout.bad == {first(1)[0]: "no outcome within 0 s"}
    assert broker.verbs == {"update": 1, "rollback": 1}
    assert not any("/cmd/" in topic for topic in broker.retained)


def test_a_command_that_is_being_carried_out_is_not_sent_again() -> None:
    broker = Broker()
    broker.slow = True
    with pytest.raises(KilledError):
        go_on(broker, "sends", 2)
    rollout = go_on(broker)
    assert broker.verbs == {"update": 2}
    assert rollout.bad == dict.fromkeys(first(2), "no outcome within 0 s")


@pytest.mark.parametrize("cause", ["outage_s", "asleep_s"])
def test_an_outage_and_a_sleep_take_no_time_from_the_devices(cause: str) -> None:
    broker = Broker()
    setattr(broker, cause, 0.2)  # four times the timeout
    rollout = go_on(broker)
    assert (rollout.stopped, rollout.count("successful")) == ("", COUNT)


def test_tolerated_bad_devices_stop_nothing() -> None:
    broker = Broker(refusing=first(2)[1:])
    rollout = go_on(broker, abort_over=50)
    assert (rollout.stopped, rollout.count("successful")) == ("", COUNT - 1)
    assert "rollback" not in broker.verbs


def test_a_rollout_that_has_ended_sends_nothing_more() -> None:
    broker = Broker()
    go_on(broker)
    go_on(broker)
    assert broker.begun.total() == COUNT


def test_only_one_process_is_at_work() -> None:
    store = Store(Rollout(reference=REFERENCE, broker="b", select={}))
    with (
        store.locked(),
        pytest.raises(FleetError, match="another edgepack is at work"),
        store.locked(),
    ):
        pass


def test_a_damaged_file_is_told() -> None:
    store = Store(Rollout(reference=REFERENCE, broker="b", select={}))
    store.path.parent.mkdir(parents=True)
    store.path.write_text('{"id": 5}')
    with pytest.raises(FleetError, match="cannot read") as caught:
        store.load()
    assert "starts over" in caught.value.hint


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "edgepack").write_text("")
    store = Store(Rollout(reference=REFERENCE, broker="b", select={}))
    with pytest.raises(ResourceError, match="cannot write") as caught, store.locked():
        pass
    assert "XDG_STATE_HOME" in caught.value.hint
