"""What this machine has for a build: memory, within the limits set for this process, and disk."""

import shutil
from pathlib import Path

import psutil

from device_runtime.memory import limits


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
