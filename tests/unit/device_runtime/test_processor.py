"""The cores that this process may use."""

import os
from pathlib import Path

import pytest

from device_runtime.processor import cores


def make(folder: Path, siblings: dict[int, str]) -> Path:
    for number, text in siblings.items():
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("siblings", "allowed", "expected"),
    [
        ({0: "0", 1: "1"}, {0, 1}, 2),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, 2),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {1, 2, 3}, 2),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, {3}, 1),
        ({}, {0, 1, 2}, 3),
    ],
    ids=["two cores", "two threads a core", "one thread not allowed", "one allowed", "not told"],
)
def test_threads_of_one_core_count_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    siblings: dict[int, str],
    allowed: set[int],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: allowed)
    assert cores(make(tmp_path, siblings)) == expected


def test_systems_that_do_not_tell_leave_it_to_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 0
