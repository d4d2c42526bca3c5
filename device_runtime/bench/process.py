"""CPU time and memory of a process, from the kernel's files (man 5 proc)."""

import os
import re
from pathlib import Path

from device_runtime.status.board import PROC, text

_FIELDS = re.compile(r"^(VmHWM|VmRSS|RssAnon|RssFile):\s+(\d+) kB$", re.MULTILINE)


def cpu_s(pid: int | None, proc: Path = PROC) -> float | None:
    """Return the CPU time of all threads of a process, seconds; None if it is not known."""
    # Fields 14 and 15, counted from behind the name, which may contain anything.
    fields = text(proc / f"{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 13:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int | None, proc: Path = PROC) -> dict[str, int] | None:
    """Return the fields of a process's memory, bytes, by name; None if they are not known.

    `VmHWM` is its peak and `VmRSS` its resident memory: `RssAnon`, its own, and `RssFile`, pages of
    files.
    """
    fields = _FIELDS.findall(text(proc / f"{pid}/status"))
    return {name: int(kilobytes) << 10 for name, kilobytes in fields} if len(fields) == 4 else None
