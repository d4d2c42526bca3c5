"""What this machine has for a build: memory, within the limits set for this process, and disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil


def memory_total() -> int:
    """Memory that processes may have here at the most, bytes."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in limits())])


def memory_available() -> int:
    """Memory that new processes may take without swapping, bytes."""
    within = [limit - used for limit, used in limits()]
    return max(0, min([psutil.virtual_memory().available, *within]))


def disk_free(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def limits(
    own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group around this process that has a limit, bytes.

    What counts as used is anonymous memory: pages of files are dropped when memory is wanted. The
    files are those of the kernel's documentation of control groups, versions 1 and 2.
    """
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top = groups / "memory"
            limit_name, used_name = "memory.limit_in_bytes", "total_rss"
        elif not controllers:
            top = groups
            limit_name, used_name = "memory.max", "anon"
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path may be the host's, which is not there; the group is at the top.
        for folder in (inner, *inner.parents) if inner.is_dir() else (top,):
            try:
                limit = (folder / limit_name).read_text().strip()
                stat = (folder / "memory.stat").read_text()
            except OSError:
                continue
            if limit != "max" and int(limit) < 1 << 60:  # version 1 has a huge number for none
                used = dict(each.split() for each in stat.splitlines())
                yield int(limit), int(used[used_name])
