"""Health of the worker."""

from enum import StrEnum


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
