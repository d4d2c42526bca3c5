"""The kernel's count of processes that it has ended because memory ran out."""

from pathlib import Path

import pytest

from packager import machine

VERSION_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
VERSION_2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 0\n"
WHOLE = "pgfault 12\noom_kill 7\nallocstall_dma 0\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("4:memory:/a/b\n1:cpu:/\n", {"memory/a/b/memory.oom_control": VERSION_1}, 3),
        ("0::/a.slice\n", {"a.slice/memory.events": VERSION_2}, 3),
        # In a container, the path is the host's.
        ("0::/docker/123\n", {"memory.events": VERSION_2}, 3),
        # Version 2 is there, and version 1 has the memory.
        ("4:memory:/\n0::/\n", {"memory/memory.oom_control": VERSION_1}, 3),
        # No group counts: then the whole machine does.
        ("0::/\n", {}, 7),
        ("", {}, 7),
    ],
)
def test_kills_of_the_control_group_or_of_the_machine(
    tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "own").write_text(own)
    (tmp_path / "vmstat").write_text(WHOLE)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    kills = machine.oom_kills(tmp_path / "own", tmp_path / "groups", tmp_path / "vmstat")
    assert kills == expected


def test_kernel_that_does_not_count(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert machine.oom_kills(missing, missing, missing) is None


def test_this_kernel_counts() -> None:
    assert machine.oom_kills() is not None
