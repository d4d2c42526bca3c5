"""The journal survives what a disk may do to it: it is read, or set aside with a warning."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.durable import Folder, open_folder
from device_runtime.update.journal import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_REASON,
    Failure,
    History,
    Pending,
    clear_pending,
    read_history,
    read_pending,
    write_history,
    write_pending,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Folder]:
    with open_folder(tmp_path) as folder:
        yield folder


def test_pending_is_written_read_and_cleared(state: Folder) -> None:
    assert read_pending(state) is None
    write_pending(state, Pending(B, A, boots=2, older=C))
    assert read_pending(state) == Pending(B, A, 2, C)
    clear_pending(state)
    clear_pending(state)
    assert read_pending(state) is None


def test_service_reads_it_whatever_the_umask(state: Folder) -> None:
    before = os.umask(0o077)
    try:
        write_history(state, History())
    finally:
        os.umask(before)
    assert (state.path / "history.json").stat().st_mode & 0o777 == 0o644


def test_failures_are_counted_and_forgiven(state: Folder) -> None:
    history = History().with_failure(B, "2.0", "hangs").with_failure(A, "1.0", "slow")
    history = history.with_failure(B, "2.0", "crashes")
    assert history.failures == (Failure(A, "1.0", "slow", 1), Failure(B, "2.0", "crashes", 2))
    history = history.with_success(B, 4.5).with_success(A, None)
    assert history == History((), {B: 4.5})


def test_end_of_a_trial_while_it_is_read(state: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard ends it at any moment; status and the installer read it without the lock."""
    write_pending(state, Pending(B, A))
    status = state.stat("pending.json")
    clear_pending(state)
    monkeypatch.setattr(Folder, "stat", lambda *_: status)
    assert read_pending(state) is None


def test_reasons_cannot_move_a_cursor(state: Folder) -> None:
    write_history(state, History().with_failure(B, "2.0", "it\x1b[2J\nhangs \u202e"))
    failure = read_history(state).failure(B)
    assert failure is not None
    assert failure.reason == "it [2J hangs  "


def test_history_is_bounded(state: Folder) -> None:
    history = History()
    for number in range(3 * MAX_ENTRIES):
        digest = f"{number:064x}"
        history = history.with_failure(digest, "1", "é" * 9000).with_success("f" * 64, 1.0)
        history = History(history.failures, history.speeds | {digest: 1.0})
    write_history(state, history)
    read = read_history(state)
    assert len(read.failures) == len(read.speeds) == MAX_ENTRIES
    assert read.failures[-1] == Failure(f"{number:064x}", "1", "é" * MAX_REASON, 1)
    assert (state.path / "history.json").stat().st_size < MAX_BYTES


def test_later_versions_fields_are_ignored(state: Folder) -> None:
    text = f'{{"release":"{B}","previous":null,"colour":"red"}}'
    (state.path / "pending.json").write_text(text)
    assert read_pending(state) == Pending(B, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"{",
        b"[]",
        b'{"release": 5, "previous": null}',
        b'{"release": "../../../etc", "previous": null}',
        b'{"release": "' + B.encode() + b'\\n", "previous": null}',
        b'{"release": "' + B.encode() + b'", "previous": null, "boots": -1}',
        b"[" * 60_000,
        b'{"x":' + b"[" * 60_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_damaged_file_is_set_aside_with_a_warning(
    state: Folder, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for name, read in (("pending.json", read_pending), ("history.json", read_history)):
        (state.path / name).write_bytes(data)
        if name == "history.json" and data.startswith(b'{"release"'):
            continue  # an object with none of its fields: an empty history
        with caplog.at_level(logging.WARNING):
            assert read(state) in (None, History())
        assert f"{name} is damaged and was set aside" in caplog.text
        assert (state.path / f"{name}.corrupt").read_bytes() == data
        assert not (state.path / name).exists()


def test_pipe_and_link_in_its_place_are_set_aside(state: Folder, tmp_path: Path) -> None:
    os.mkfifo(state.path / "pending.json")
    (state.path / "history.json").symlink_to("/etc/passwd")
    assert read_pending(state) is None
    assert read_history(state) == History()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "history.json.corrupt",
        "pending.json.corrupt",
    ]
