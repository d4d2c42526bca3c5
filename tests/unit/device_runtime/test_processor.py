"""The cores that this process may use, and the C++ library of its system."""

import ctypes
import json
import os
import sys
from pathlib import Path

import pytest

from device_runtime import processor
from device_runtime.processor import (
    CPP_LIBRARY,
    Processor,
    cores,
    fingerprint,
    kinds_of_cores,
    prefer_system_library,
)


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
    assert cores(make(tmp_path, siblings), own=tmp_path / "none") == expected


@pytest.mark.parametrize(
    ("file", "speeds", "expected"),
    [
        ("cpu_capacity", [1024, 1024, 530, 530], [(0, 1), (2, 3)]),
        ("cpu_capacity", [400, 400, 870, 1024], [(3,), (2,), (0, 1)]),
        (
            "cpufreq/cpuinfo_max_freq",
            [5_100_000, 5_200_000, 3_900_000, 3_900_000],
            [(0, 1), (2, 3)],
        ),
        ("cpufreq/cpuinfo_max_freq", [2_400_000] * 4, [(0, 1, 2, 3)]),
        ("none", [0, 0, 0, 0], [(0, 1, 2, 3)]),
    ],
    ids=["big and little", "three kinds", "hybrid, one favoured", "alike", "not told"],
)
def test_cpus_are_listed_by_the_kind_of_their_core(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    speeds: list[int],
    expected: list[tuple[int, ...]],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(len(speeds))))
    for number, speed in enumerate(speeds):
        path = tmp_path / f"cpu{number}" / file
        path.parent.mkdir(parents=True)
        path.write_text(f"{speed}\n")
    assert kinds_of_cores(tmp_path) == expected


CPUINFO = """processor\t: 0
model name\t: Sample 5
cpu MHz\t\t: {mhz}
flags\t\t: fpu avx2{more}
bogomips\t: {mhz}
"""


def test_fingerprint_is_of_the_kind_and_what_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"

    def now(mhz: int = 1000, more: str = "", allowed: tuple[int, ...] = (0, 1)) -> str:
        cpuinfo.write_text(CPUINFO.format(mhz=mhz, more=more))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(allowed))
        return fingerprint(cpuinfo)

    usual = now()
    assert now(mhz=2000) == usual
    assert now(more=" avx512f") != usual
    assert now(allowed=(0,)) != usual


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "max 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1),
        ("0::/a", {"a/cpu.max": "50000 100000"}, 1),
        ("0::/host/path", {"cpu.max": "300000 100000"}, 3),
        ("0::/a", {"a/cpu.max": "900000 100000"}, 4),
        ("0::/a", {"a/memory.max": "max"}, 4),
        ("0::/a", {"a/cpu.max": "garbage"}, 4),
        (
            "4:cpu,cpuacct:/a\n0::/",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ("3:cpuset:/a", {"cpuset/a/cpu.cfs_quota_us": "1"}, 4),
    ],
    ids=["inner", "outer", "half", "container", "more", "none", "garbage", "version 1", "other"],
)
def test_quota_counts_in_whole_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3})
    (tmp_path / "own").write_text(own + "\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert cores(tmp_path, tmp_path / "own", tmp_path / "groups") == expected


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


@pytest.mark.parametrize(
    ("model", "graphs"),
    [
        ({"decoder": {}}, (Processor.GPU_FP16, Processor.GPU)),
        ({"decoder": {}, "vision": {}}, ()),
    ],
)
def test_model_that_sees_stays_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: dict[str, object],
    graphs: tuple[Processor, ...],
) -> None:
    monkeypatch.setattr(processor, "gpu_library", lambda: tmp_path)
    (tmp_path / processor.HALF_GRAPH).touch()
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": model}))
    assert processor.gpu_graphs(tmp_path) == graphs
