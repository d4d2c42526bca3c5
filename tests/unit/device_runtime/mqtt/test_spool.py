"""The spool: what waits for the broker survives, in order and within bounds."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.mqtt import spool
from device_runtime.mqtt.spool import NAME, Spool


def _payloads(of: Spool) -> list[bytes]:
    return [payload for _, payload in of.after(0, 1000)]


def test_events_survive_a_restart_in_their_order(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    for number in range(20):
        first.add(b"%d" % number)
    first.close()
    second = Spool(tmp_path)
    second.add(b"20")
    assert _payloads(second) == [b"%d" % number for number in range(21)]
    assert second.state().depth == 21
    assert second.failure == ""


def test_what_has_arrived_is_gone_for_good(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    for number in range(3):
        first.add(b"%d" % number)
    (second, _) = first.after(0, 3)[1]
    first.remove(second)
    first.close()
    assert _payloads(Spool(tmp_path)) == [b"0", b"2"]


def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    # A late acknowledgement must not remove another event.
    events = Spool(tmp_path)
    events.add(b"a")
    ((number, _),) = events.after(0, 1)
    events.remove(number)
    events.add(b"b")
    events.remove(number)
    assert _payloads(events) == [b"b"]


def test_parts_are_read_in_order(tmp_path: Path) -> None:
    events = Spool(tmp_path)
    for number in range(7):
        events.add(b"%d" % number)
    read, last = [], 0
    while batch := events.after(last, 3):
        read += [payload for _, payload in batch]
        last = batch[-1][0]
    assert read == [b"%d" % number for number in range(7)]


def test_at_the_bound_the_oldest_are_dropped_and_counted(tmp_path: Path) -> None:
    events = Spool(tmp_path, limit=5)
    for number in range(8):
        events.add(b"%d" % number)
    assert _payloads(events) == [b"3", b"4", b"5", b"6", b"7"]
    assert (events.state().depth, events.state().dropped) == (5, 3)
    events.close()
    assert Spool(tmp_path, limit=5).state().dropped == 3


def test_without_a_folder_events_are_kept_in_memory() -> None:
    events = Spool(None, limit=2)
    for number in range(3):
        events.add(b"%d" % number)
    assert _payloads(events) == [b"1", b"2"]
    assert (events.state().depth, events.state().dropped) == (2, 1)
    events.remove(2)
    assert _payloads(events) == [b"2"]


def test_on_a_full_disk_events_wait_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Spool(tmp_path)
    events.add(b"a")

    def full(*_: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(spool.Spool, "_insert", full)
        events.add(b"b")
        assert events.failure == "database or disk is full"
        assert _payloads(events) == [b"a", b"b"]
    events.add(b"c")
    assert events.failure == ""
    events.close()
    assert _payloads(Spool(tmp_path)) == [b"a", b"b", b"c"]


def test_a_damaged_database_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    events = Spool(tmp_path)
    events.add(b"a")
    assert _payloads(events) == [b"a"]
    assert (tmp_path / f"{NAME}.damaged").is_file()


def test_a_folder_that_cannot_be_used_costs_no_event(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    before = Spool(tmp_path)
    before.add(b"a")
    before.close()
    events = Spool(folder)
    events.add(b"b")
    assert events.failure
    tmp_path.joinpath(NAME).rename(_made(folder) / NAME)
    events.add(b"c")
    assert events.failure == ""
    assert _payloads(events) == [b"a", b"b", b"c"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_sessions_are_numbered_across_restarts(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    assert [first.next_session(), first.next_session()] == [1, 2]
    first.close()
    assert Spool(tmp_path).next_session() == 3


def test_a_killed_process_loses_nothing_that_it_has_added(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from device_runtime.mqtt.spool import Spool\n"
        "events = Spool(Path(sys.argv[1]))\n"
        "for number in range(500):\n"
        "    events.add(b'%d' % number)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert killed.returncode == -9
    assert _payloads(Spool(tmp_path)) == [b"%d" % number for number in range(500)]
