"""This machine's resources for a build: memory, within this process's limits, and disk space."""

import functools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from device_runtime.memory import limits


def memory_total() -> int:
    """Return the total memory for processes, bytes."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in limits())])


def memory_available() -> int:
    """Return the memory that new processes can allocate without swapping, bytes."""
    within = [limit - used for limit, used in limits()]
    return max(0, min([psutil.virtual_memory().available, *within]))


def peak_memory(about: Path = Path("/proc/self/status")) -> int:
    """Return the peak resident memory of this process, bytes, mapped files included; 0 where the
    system does not tell.

    What getrusage(2) tells is at least the memory of the process that this one was started by.
    """
    for line in about.read_text().splitlines() if about.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def multiplies_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor has instructions for matrices in bfloat16.

    Without them, PyTorch multiplies in bfloat16 several times more slowly than in fp32.
    """
    text = cpu.read_text() if cpu.exists() else ""  # Linux alone has the file
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    names = set(flags[1].split()) if flags else set()
    return not names.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Pace of this machine, with all its cores.

    Attributes:
        products_s: floating-point operations a second, as in a product of fp32 matrices.
        bytes_s: bytes a second that are read or written in memory.
    """

    products_s: float
    bytes_s: float


@functools.cache
def pace() -> Pace:
    """Measure this machine's pace; takes about a second."""
    import numpy as np

    left, right = np.ones((1024, 2048), np.float32), np.ones((2048, 2048), np.float32)
    many = np.ones(1 << 25, np.float32)
    copied = np.empty_like(many)
    product_s = min(_seconds(lambda: left @ right) for _ in range(5))
    copy_s = min(_seconds(lambda: np.copyto(copied, many)) for _ in range(5))
    return Pace(products_s=2 * left.size * len(right) / product_s, bytes_s=2 * many.nbytes / copy_s)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def disk_free(folder: Path) -> int:
    """Return the free space on the disk of a folder, which need not exist yet, bytes."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def oom_kills(
    own: Path = Path("/proc/self/cgroup"),
    groups: Path = Path("/sys/fs/cgroup"),
    whole: Path = Path("/proc/vmstat"),
) -> int | None:
    """Count the processes that the kernel has ended because memory ran out.

    Counted are those of this process's control group, or of the whole machine where no group is
    counted. The files are those of the kernel's documentation of control groups, versions 1 and 2,
    and of /proc/vmstat.

    Returns:
        None if the kernel does not count.
    """
    for file in (*_group_counters(own, groups), whole):
        try:
            count = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        if count is not None:
            return int(count[1])
    return None


def _group_counters(own: Path, groups: Path) -> Iterator[Path]:
    """Files that may have the count of this process's control group."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top, name = groups / "memory", "memory.oom_control"
        elif not controllers:
            top, name = groups, "memory.events"
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path may be the host's, which is not there; the group is at the top.
        yield (inner if inner.is_dir() else top) / name
