"""Messages to systemd, read from a socket like its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.status import notify as module
from device_runtime.status.notify import keep_notifying, notify
from device_runtime.worker.health import Health
from tests.support.serving import eventually
from tests.support.statuses import status


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The messages that systemd would have, as they come."""
    messages: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def read() -> None:
            while (message := listening.recv(4096).decode()) != "END=1":
                messages.append(message)

        reader = threading.Thread(target=read)
        reader.start()
        yield messages
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"END=1", str(tmp_path / "notify"))
        reader.join()


def run(seconds: float, health: list[Health], stuck: list[str]) -> None:
    """Notify for some rounds; of each list, a round takes one, and the last stays."""

    def take(values: list) -> object:  # type: ignore[type-arg]
        return values.pop(0) if len(values) > 1 else values[0]

    async def limited() -> None:
        work = keep_notifying(lambda: status(health=take(health)), lambda: str(take(stuck)))
        try:
            await asyncio.wait_for(work, seconds)
        except TimeoutError:
            return

    asyncio.run(limited())


def test_loading_then_ready_then_signs_of_life(
    received: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    run(0.5, [Health.STARTING, Health.STARTING, Health.READY], [""])
    eventually(lambda: len(received) > 7)
    assert received[:6] == [
        "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=loading the model",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=loading the model",
        "WATCHDOG=1",
        "READY=1\nSTATUS=serving",
        "WATCHDOG=1",
    ]
    assert set(received[6:]) == {"WATCHDOG=1"}


def test_no_signs_of_life_while_something_is_stuck(
    received: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    run(0.5, [Health.READY], ["", "MQTT"])
    eventually(lambda: len(received) > 1)
    assert received == ["READY=1\nSTATUS=serving", "WATCHDOG=1"]
    assert len(caplog.records) == 1


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    with pytest.raises(OSError, match="No such file"):
        notify("READY=1")
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    run(0.1, [Health.READY], [""])  # is logged, and ends nothing


def test_a_name_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0edgepack-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@edgepack-test-notify")
        notify("A=1", "B=2")
        listening.settimeout(10)
        assert listening.recv(100) == b"A=1\nB=2"
