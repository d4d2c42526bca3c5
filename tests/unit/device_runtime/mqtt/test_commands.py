"""Commands: what is carried out, what is refused, and what is published for it."""

import asyncio
import json
import random
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from device_runtime.mqtt import commands as module
from device_runtime.mqtt.commands import AT_ONCE, LARGEST, Call, Commands, Outgoing
from device_runtime.mqtt.connection import Incoming
from device_runtime.mqtt.ledger import Ledger
from tests.support.serving import eventually

ROOT = "edgepack/v1/dev-1/"
TOPIC = f"{ROOT}cmd/ping/1"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running

    def end() -> None:
        # A task that is left would complain in the log of another test, when it is collected.
        for task in asyncio.all_tasks(running):
            task.cancel()
        running.call_soon(running.stop)

    running.call_soon_threadsafe(end)
    thread.join()
    running.close()


class Device:
    """Commands whose one verb counts how often it is carried out."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, folder: Path | None = None, *verbs: str
    ) -> None:
        self.carried_out: list[dict[str, Any]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.resumed: list[dict[str, Any]] = []
        handlers = dict.fromkeys(("ping", *verbs), self._ping)
        self.commands = Commands(ROOT, handlers, Ledger(folder), loop)
        self.published: list[Outgoing] = []

    async def _ping(self, call: Call) -> dict[str, Any]:
        arguments = dict(call.arguments)
        (self.resumed if call.resumed else self.carried_out).append(arguments)
        while not self.hold.is_set():
            await asyncio.sleep(0.01)
        if arguments.get("defect"):
            raise ValueError("a secret prompt")
        return {}

    def send(self, topic: str = TOPIC, retained: bool = False, **fields: Any) -> None:
        content = json.dumps({"status": "init", **fields}).encode()
        self.commands.receive(Incoming(topic, content, retained))

    def last(self, topic: str = TOPIC) -> dict[str, Any]:
        """The state of a command, once it has ended."""

        def ended() -> dict[str, Any] | None:
            self.published += self.commands.take()
            states = [json.loads(sent.content) for sent in self.published if sent.topic == topic]
            return states[-1] if states and states[-1]["status"] != "executing" else None

        state: dict[str, Any] = eventually(ended)
        return state


def test_a_command_is_carried_out_once(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    device = Device(loop, tmp_path)
    device.send(arguments={"a": 1})
    assert device.last()["status"] == "successful"
    device.send(arguments={"a": 2})
    assert device.last()["status"] == "successful"
    device.commands.close()
    later = Device(loop, tmp_path)
    later.send(arguments={"a": 3})
    assert "begun before" in later.last()["reason"]
    later.commands.close()
    assert device.carried_out == [{"a": 1}]
    assert later.carried_out == []
    assert [json.loads(sent.content)["status"] for sent in device.published] == [
        "executing",
        "successful",
        "successful",
    ]
    assert all(sent.retain for sent in device.published)


def test_what_outlives_the_service_goes_on_in_the_next_run(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    topic = f"{ROOT}cmd/update/1"
    first = Device(loop, tmp_path, "update")
    first.hold.clear()
    first.send(topic, nonce="n", arguments={"a": 1})
    first.send(arguments={"b": 1})
    eventually(lambda: len(first.carried_out) == 2)
    executing = first.commands.take()[0].content
    first.commands.close()
    second = Device(loop, tmp_path, "update")
    # The broker has it still, as the first run left it.
    second.commands.receive(Incoming(topic, executing, retained=True))
    assert second.last(topic)["status"] == "successful"
    assert (second.carried_out, second.resumed) == ([], [{"a": 1}])
    second.commands.close()
    # Its end has not reached the broker: it is told again.
    second = Device(loop, tmp_path, "update")
    assert second.last(topic)["status"] == "successful"
    second.commands.receive(Incoming(topic, second.published[-1].content, retained=False))
    second.commands.close()
    third = Device(loop, tmp_path, "update")
    third.send(topic, nonce="n")
    assert "begun before" in third.last(topic)["reason"]
    assert third.resumed == []
    third.commands.close()
    first.hold.set()


def test_what_is_no_longer_allowed_does_not_go_on(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    first = Device(loop, tmp_path, "update")
    first.hold.clear()
    first.send(f"{ROOT}cmd/update/1")
    eventually(lambda: first.carried_out)
    first.commands.close()
    for verbs in ((), ("update",)):
        later = Device(loop, tmp_path, *verbs)
        later.commands.close()
        assert later.commands.take() == []
    first.hold.set()


def test_its_end_is_published_again_if_the_broker_did_not_get_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    device = Device(loop)
    device.send()
    device.last()
    executing = device.published[0].content
    device.published.clear()
    device.commands.receive(Incoming(TOPIC, executing, retained=False))
    assert device.commands.take() == []
    device.commands.receive(Incoming(TOPIC, executing, retained=True))
    assert device.last()["status"] == "successful"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"expires": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}, "expired at"),
        ({"expires": "2999-01-01T00:00:00"}, "time zone"),
    ],
)
def test_expired_commands_are_refused(
    fields: dict[str, Any], reason: str, loop: asyncio.AbstractEventLoop
) -> None:
    device = Device(loop)
    device.send(**fields)
    assert reason in device.last()["reason"]
    assert device.commands.refused == 1
    assert device.carried_out == []


def test_too_many_at_once_are_refused(loop: asyncio.AbstractEventLoop) -> None:
    device = Device(loop)
    device.hold.clear()
    for number in range(AT_ONCE + 1):
        device.send(f"{ROOT}cmd/ping/{number}")
    reason = device.last(f"{ROOT}cmd/ping/{AT_ONCE}")["reason"]
    device.hold.set()
    assert f"{AT_ONCE} commands" in reason
    for number in range(AT_ONCE):
        assert device.last(f"{ROOT}cmd/ping/{number}")["status"] == "successful"


def test_a_defect_says_nothing_of_the_arguments(loop: asyncio.AbstractEventLoop) -> None:
    device = Device(loop)
    device.send(arguments={"defect": True})
    state = device.last()
    assert state["status"] == "failed"
    assert "secret" not in json.dumps(state)


def test_a_cleared_topic_is_no_refusal(loop: asyncio.AbstractEventLoop) -> None:
    device = Device(loop)
    device.commands.receive(Incoming(TOPIC, b"", retained=False))
    assert device.commands.refused == 0


def hostile(seed: int) -> Incoming:
    """Make a message that is not a command."""
    chance = random.Random(seed)
    garbage = chance.randbytes(chance.randrange(1, 200))
    contents = (
        garbage,
        b'{"status": "init", "arguments": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"status": "init", "arguments": "text"}',
        b'{"status": "successful"}',
        b'{"status": 1}',
        b'{"status": "init", "expires": "tomorrow"}',
        b"[1, 2]",
        b"x" * (LARGEST + 1),
    )
    names = ("1", "a" * 65, "a b", "\u00e4", "", "..")
    topic = f"{ROOT}cmd/ping/{names[0] if chance.random() < 0.7 else chance.choice(names)}"
    content = contents[seed % len(contents)]
    return Incoming(topic, content, chance.random() < 0.5, "other/topic", garbage)


def test_hostile_messages_are_counted_and_leave_nothing(loop: asyncio.AbstractEventLoop) -> None:
    device = Device(loop)
    for seed in range(1000):
        device.commands.receive(hostile(seed))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for seed in range(1000, 10_000):
        device.commands.receive(hostile(seed))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert device.commands.refused == 10_000
    assert device.commands.take() == []
    assert device.carried_out == []
    assert grown < 100_000


def test_states_that_are_kept_are_bounded(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 5)
    device = Device(loop)
    for number in range(20):
        device.send(f"{ROOT}cmd/restart/{number}")
        device.last(f"{ROOT}cmd/restart/{number}")
    assert len(device.commands._states) == 5
    assert device.commands.refused == 20
