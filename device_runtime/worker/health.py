"""Health of the inference process."""

from enum import StrEnum
from pathlib import Path


class Health(StrEnum):
    """State of the inference process.

    UNLOADED: no request came for a while, or memory was short; the next request starts it.
    DEGRADED: the process ended and is being replaced, or it is stopped; requests wait. FAILING: its
    replacements end too; requests are refused.
    """

    STARTING = "starting"
    READY = "ready"
    UNLOADED = "unloaded"
    DEGRADED = "degraded"
    FAILING = "failing"
    STOPPING = "stopping"


def is_stopped(pid: int | None) -> bool:
    """Return whether a process is stopped, as by SIGSTOP; False if it is gone."""
    try:
        # Third field of stat (man 5 proc), after the name, which may contain any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
