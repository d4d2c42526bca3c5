"""The ledger: a command begins once, also after a power cut."""

import sqlite3
from pathlib import Path

import pytest

from device_runtime.mqtt.ledger import NAME, Ledger


def test_a_name_begins_once_also_after_a_restart(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    assert first.begin("a")
    assert not first.begin("a")
    first.close()
    second = Ledger(tmp_path)
    assert not second.begin("a")
    assert second.begin("b")
    second.close()


def test_without_a_folder_it_remembers_until_the_end() -> None:
    ledger = Ledger(None)
    assert ledger.begin("a")
    assert not ledger.begin("a")


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, limit=3)
    for name in "abcde":
        assert ledger.begin(name)
    ledger.close()
    again = Ledger(tmp_path, limit=3)
    assert [again.begin(name) for name in "cde"] == [False] * 3
    assert again.begin("a")
    again.close()


def test_a_full_disk_does_not_stop_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_insert", full)
        assert ledger.begin("a")
    assert not ledger.begin("a")
    ledger.close()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
