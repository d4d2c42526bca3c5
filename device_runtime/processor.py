"""The processor that this process may use."""

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def cores(cpus: Path = _CPUS) -> int:
    """Count the cores that this process may use; the threads of one core compute no faster.

    ONNX Runtime itself also counts them, but ties its threads to some then: on a machine of two
    cores, a model decoded at 95 instead of 128 tokens a second, and three threads at 50.

    Args:
        cpus: what the kernel tells of the processor (sysfs-devices-system-cpu).

    Returns:
        Number of cores; 0, ONNX Runtime's own choice, where the system cannot tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    return len({_siblings(cpus, number) for number in os.sched_getaffinity(0)})


def _siblings(cpus: Path, number: int) -> str:
    """Return the list of the hardware threads of a core, by one of them."""
    try:
        return (cpus / f"cpu{number}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(number)
