"""Health of the worker."""

from enum import StrEnum
from pathlib import Path


class Health(StrEnum):
    """How the inference process is.

    DEGRADED: it ended and is being replaced, or is stopped; requests wait. FAILING: its successors
    end too; requests are refused.
    """

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILING = "failing"
    STOPPING = "stopping"


def is_stopped(pid: int | None) -> bool:
    """Tell if a process stands still, as SIGSTOP makes it; not so if it is gone."""
    try:
        # Third field of stat (man 5 proc), after the name, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
