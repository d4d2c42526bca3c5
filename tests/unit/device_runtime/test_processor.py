"""The cores that this process may use, and the C++ library of its system."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from device_runtime.processor import CPP_LIBRARY, cores, prefer_system_library


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


@pytest.mark.parametrize(
    ("system", "taken"), [("3.4.33", True), ("3.4.30", True), ("3.4.9", False)]
)
def test_cpp_library_of_the_system_is_taken_unless_it_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, taken: bool
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / CPP_LIBRARY).write_bytes(b"\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / CPP_LIBRARY).write_bytes(f"\0GLIBCXX_{system}\0".encode())
    loaded: list[str] = []
    monkeypatch.setattr(sys, "_MEIPASS", str(tmp_path / "own"), raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append(path))
    prefer_system_library((tmp_path / "missing", tmp_path / "lib"))
    assert loaded == ([str(tmp_path / "lib" / CPP_LIBRARY)] if taken else [])


def test_program_without_a_cpp_library_of_its_own_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CPP_LIBRARY).write_bytes(b"\0GLIBCXX_3.4.33\0")
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: pytest.fail(path))
    prefer_system_library((tmp_path,))
